"""Host memory against what the verifier will take of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from speculators.pipeline.machine.estimates import Needs
from speculators.pipeline.machine.findings import Finding, missing, not_checked, ok, warning
from speculators.quantities import size

#: Beyond this share of what is available the interpreter, activations and buffers get tight.
NEAR = 0.8
MEND = (
    "choose a smaller verifier, lower engine.args.kv_cache_memory_bytes, end other programs, or use a "
    "machine (or container) with more memory"
)


class Memory(NamedTuple):
    """Bytes.  ``limit`` is the control group's, None when it sets none."""

    total: int
    available: int
    limit: int | None


def look() -> Memory | None:
    """What Linux says; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kibibytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    total, available = kibibytes["MemTotal"] << 10, kibibytes.get("MemAvailable", kibibytes["MemFree"]) << 10
    return Memory(total, available, group_limit())


def judge_memory(memory: Memory | None, needs: Needs | None, is_cpu: bool) -> list[Finding]:
    """``needs`` is None without a recipe; with a CUDA engine the weights served are not in host memory."""
    if memory is None:
        return [not_checked("memory", "this system does not tell how much there is")]
    total = min(memory.total, memory.limit or memory.total)
    available = min(memory.available, total)
    told = f"{size(available)} available of {size(total)}"
    if memory.limit is not None and memory.limit < memory.total:
        told += " that this control group (container, batch job) may use"
    if needs is None:
        return [ok("memory", told)]
    needed = needs.reference + (needs.servers * (needs.weights + needs.cache) if is_cpu else 0)
    told = f"{told}; the verifier takes about {size(needed)} (estimate: {_parts(needs, is_cpu)})"
    if needed > total:
        return [missing("memory", told, MEND)]
    return [warning("memory", told, MEND) if needed > NEAR * available else ok("memory", told)]


def _parts(needs: Needs, is_cpu: bool) -> str:
    times = f"{needs.servers} servers' " if needs.servers > 1 else ""
    of_engine = {f"{times}weights": needs.weights, f"{times}KV cache": needs.cache}
    engine = {name: needs.servers * count for name, count in of_engine.items()} if is_cpu else {}
    parts = {**engine, "float32 copy for the probe": needs.reference}
    told = " + ".join(f"{name} {size(count)}" for name, count in parts.items() if count)
    return told or "the weights are on the GPU"


def group_limit(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The tightest memory limit of this process's control groups, version 2 or 1; None when unlimited."""
    found = []
    for file in _limit_files(groups, root):
        try:
            text = file.read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():  # "max" otherwise
            found.append(int(text))
    return min(found, default=None)


def _limit_files(groups: Path, root: Path) -> Iterator[Path]:
    """The limit of every group up to the root: a parent's limit binds its children too."""
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        versions = {"": (root, "memory.max"), "memory": (root / "memory", "memory.limit_in_bytes")}
        if controllers not in versions:
            continue
        base, name = versions[controllers]
        group = base / path.lstrip("/")
        yield from (folder / name for folder in (group, *group.parents) if folder.is_relative_to(base))
