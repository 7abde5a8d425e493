"""What a container of ours is allowed: the create request as a pure function.

Everything that a stage does not need is closed: no network, no capabilities, no new privileges, a
read-only root, inputs read-only, one output folder writable by the caller's own user.  What vLLM and torch
need to live there all the same is in ``INSIDE`` and in the scratch file system.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speculators.errors import MachineError, StageError
from speculators.executors.engine import DOCKER, LABEL, PODMAN, is_silent
from speculators.quantities import byte_count

#: Where the project's own source is mounted; images hold dependencies only.
SOURCE = "/opt/speculators"
SCRATCH = "/tmp"
#: The container's own loopback device is all the network that a stage has.
PORT = 8000
INSIDE = {
    "PYTHONPATH": SOURCE,
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    # A user id of the host has no home and no name in the image: torch asks for both.
    "HOME": SCRATCH,
    "USER": "speculators",
    "LOGNAME": "speculators",
    "XDG_CACHE_HOME": f"{SCRATCH}/cache",
    "TMPDIR": SCRATCH,
    # Without a network, an engine that asks for its address gets none or waits.
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}
#: So many folders below an input are searched for links: models and prompts lie flat.
LINK_DEPTH = 3
#: Programs of an image that wait for arguments: ours is the whole command.
NO_ENTRYPOINT: list[str] = []


class Limits(NamedTuple):
    """The recipe's ``container`` block, in bytes and seconds."""

    gpus: int | str
    memory: int | None
    shared_memory: int
    processes: int
    time_limit: int | None
    secrets: tuple[str, ...] = ()


class Box(NamedTuple):
    """One container.  ``image``: the engine's id of it; ``beside``: the container whose network it shares."""

    image: str
    argv: Sequence[str]
    env: Mapping[str, str]
    user: str
    reads: Sequence[Path]
    writes: Sequence[Path]
    run: str
    name: str
    gpus: bool = False
    beside: str = ""


def limits(container: Mapping[str, Any]) -> Limits:
    """The limits in a recipe's resolved ``container`` block."""
    return Limits(
        container["gpus"],
        byte_count(container["memory"]) or None,
        byte_count(container["shared_memory"]),
        container["processes"],
        container["time_limit"],
        tuple(container["secrets"]),
    )


def create_body(
    box: Box, limit: Limits, source: Path, kind: str = DOCKER, version: str = ""
) -> dict[str, Any]:
    """The body of the engine's ``POST /containers/create``; values of secrets are added by who sends it.

    ``source``: the folder of the installed package.

    Raises:
        StageError: something that the stage is to read has vanished.
        MachineError: this engine would ignore the request for GPUs.
    """
    wants_gpus = box.gpus and bool(limit.gpus)
    argv = list(box.argv)
    if wants_gpus:
        # An engine may start the container without them and say nothing.
        python = argv[0]
        argv = [python, "-m", "speculators.executors.require_gpus", str(limit.gpus), "--", *argv]
    host: dict[str, Any] = {
        "Mounts": [
            _bind(source, f"{SOURCE}/speculators"),
            *(_bind(path, str(path)) for path in distinct(box.reads, box.writes)),
            *(_bind(path, place) for place, path in led_outside(box.reads, box.writes).items()),
            *(_bind(path, str(path), writable=True) for path in box.writes),
        ],
        # Engines compile into the scratch folder and load what they compiled.
        "Tmpfs": {SCRATCH: "rw,exec,nosuid,nodev,mode=1777"},
        "NetworkMode": f"container:{box.beside}" if box.beside else "none",
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Init": True,  # a first process that passes signals on
        "PidsLimit": limit.processes,
        "ShmSize": limit.shared_memory,
    }
    if limit.memory:
        host |= {"Memory": limit.memory, "MemorySwap": limit.memory}  # equal: no swap on top
    if wants_gpus:
        host["DeviceRequests"] = [device_request(limit.gpus, kind, version)]
    return {
        "Image": box.image,
        "Entrypoint": NO_ENTRYPOINT,
        "Cmd": argv,
        "Env": [f"{name}={value}" for name, value in sorted({**INSIDE, **box.env}.items())],
        "User": box.user,
        "WorkingDir": SCRATCH,
        "Labels": {LABEL: box.run, f"{LABEL}.step": box.name},
        "HostConfig": host,
    }


def device_request(gpus: int | str, kind: str, version: str) -> dict[str, Any]:
    """GPUs as the engine understands the wish: Docker by capability, Podman by CDI name.

    Raises:
        MachineError: Podman before 5 starts without them and says nothing.
    """
    if is_silent(kind, version):
        raise MachineError(
            f"Podman {version} ignores requests for GPUs",
            hint="use Podman 5 or newer with CDI (nvidia-ctk cdi generate), or Docker",
            rule="no-gpu",
        )
    if kind == PODMAN:
        return by_name(gpus)
    return {"Driver": "", "Count": -1 if gpus == "all" else int(gpus), "Capabilities": [["gpu"]]}


def by_name(gpus: int | str) -> dict[str, Any]:
    """GPUs by their names in the Container Device Interface."""
    names = ["all"] if gpus == "all" else [str(number) for number in range(int(gpus))]
    return {"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={name}" for name in names]}


def distinct(reads: Sequence[Path], writes: Sequence[Path]) -> list[Path]:
    """``reads`` without what another one of them, or a writable folder, brings along already.

    Raises:
        StageError: one is not there.
    """
    require_there([*reads, *writes])
    kept: list[Path] = []
    for path in sorted(set(reads), key=lambda one: len(one.parts)):
        if not any(path == other or other in path.parents for other in (*kept, *writes)):
            kept.append(path)
    return kept


def require_there(paths: Iterable[Path]) -> None:
    """Stop at a path that is not there: an engine would make an empty folder of that name, or mount nothing.

    Raises:
        StageError: naming it.
    """
    for path in paths:
        if not path.exists():
            raise StageError(
                f"{path}: gone, or never there",
                hint="put it back, or run the stage that makes it",
                rule="vanished",
            )


def led_outside(reads: Sequence[Path], writes: Sequence[Path]) -> dict[str, Path]:
    """What links below ``reads`` lead to and nothing else brings along, by the paths that they say.

    A hub's snapshot is a folder of links to ``../../blobs``, and would hold nothing when mounted alone.
    Every target is mounted by itself: what else lies beside it is no affair of the stage.
    """
    mounted = (*reads, *writes)
    found: dict[str, Path] = {}
    # A folder that was itself reached by a link has another name inside than the one that leads on from it.
    waiting = [(path, path, LINK_DEPTH) for path in reads if path.is_dir()]
    while waiting:
        inside, outside, depth = waiting.pop()
        for path in _entries(outside):
            if not path.is_symlink():
                if depth and path.is_dir():
                    waiting.append((inside / path.name, path, depth - 1))
                continue
            place = Path(os.path.normpath(inside / os.readlink(path)))
            brought = any(place == other or other in place.parents for other in mounted)
            # A link up would bring along everything; one to nothing is the stage's own affair.
            upwards = any(place in other.parents for other in mounted)
            if brought or upwards or str(place) in found or not os.path.exists(path):
                continue
            found[str(place)] = path.resolve()
            if depth and path.is_dir():
                waiting.append((place, path.resolve(), depth - 1))
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # the stage cannot read it either, and says what it wanted there
        return []


def _bind(source: Path, target: str, *, writable: bool = False) -> dict[str, Any]:
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": not writable}
