"""GPU and driver, asked only where a CUDA build of vLLM is installed: nothing else uses them.

No recipe says "GPU"; it wants one when it splits the verifier over devices, or when the verifier is of
a size that nobody runs on a CPU.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib import metadata
from typing import Any, NamedTuple

from speculators.pipeline.machine.estimates import Needs
from speculators.pipeline.machine.findings import Finding, missing, ok
from speculators.quantities import size

QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
#: A driver that hangs must not hang the doctor.
TIMEOUT_SECONDS = 10
#: Newer drivers print "CUDA UMD Version".
DRIVER_CUDA = re.compile(r"CUDA (?:UMD )?Version\s*:\s*(\d+)\.")
RUNTIMES = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12")
UTILISATION = 0.92  # vLLM 0.32's default
CPU_WEIGHTS = 8 << 30  # bytes of weights beyond which a CPU takes days for what a GPU does in hours
INSTALL = "install the NVIDIA driver; in a container, start it with GPUs (docker run --gpus all)"
#: Weights in other places or of another size than the dtype says.
UNLIKE_ESTIMATE = ("quantization", "cpu_offload_gb", "load_format")


class Gpu(NamedTuple):
    name: str
    memory: int
    driver: str


class Driver(NamedTuple):
    """What nvidia-smi says.  ``cuda`` and ``runtime`` are major versions, 0 when unknown."""

    gpus: tuple[Gpu, ...]
    cuda: int = 0
    runtime: int = 0
    problem: str = ""


def look() -> Driver:
    if shutil.which(QUERY[0]) is None:
        return Driver((), problem="there is no nvidia-smi")
    try:
        listed, shown = _answer(QUERY), _answer(QUERY[:1])
    except (OSError, subprocess.SubprocessError) as error:
        return Driver((), problem=f"nvidia-smi failed: {_reason(error)}")
    stated = DRIVER_CUDA.search(shown)
    return Driver(read_gpus(listed), int(stated[1]) if stated else 0, _runtime())


def read_gpus(listed: str) -> tuple[Gpu, ...]:
    """Rows of ``name, MiB, driver``; a GPU that shares the host's memory has no figure of its own."""
    rows = (line.rsplit(", ", 2) for line in listed.splitlines() if line.count(", ") >= 2)
    return tuple(Gpu(name, int(mib) << 20 if mib.isdigit() else 0, driver) for name, mib, driver in rows)


def judge_gpus(driver: Driver, args: Mapping[str, Any], needs: Needs | None) -> list[Finding]:
    """``args`` are the recipe's ``engine.args``, empty without one."""
    if driver.problem or not driver.gpus:
        return [missing("gpu", driver.problem or "nvidia-smi lists no GPU", INSTALL)]
    wanted = parts(args)
    first = driver.gpus[0]
    told = f"{len(driver.gpus)} x {first.name}, {size(first.memory)} each, driver {first.driver}"
    found = []
    if 0 < driver.cuda < driver.runtime:
        detail = f"driver {first.driver} knows CUDA {driver.cuda}, torch is built for CUDA {driver.runtime}"
        mend = f"update the NVIDIA driver, or install builds of torch and vLLM for CUDA {driver.cuda}"
        found.append(missing("gpu", detail, mend))
    if len(driver.gpus) < wanted:
        mend = "lower engine.args.tensor_parallel_size or pipeline_parallel_size"
        found.append(missing("gpu", f"{told}; engine.args asks for {wanted}", mend))
    elif needs and not set(UNLIKE_ESTIMATE) & set(args):
        found += _too_small(driver.gpus[:wanted], args, needs.weights // wanted)
    return found or [ok("gpu", told)]


def judge_without(args: Mapping[str, Any], needs: Needs | None) -> list[Finding]:
    """What a recipe made for GPUs meets where vLLM has no CUDA build."""
    wanted = parts(args)
    weights = needs.weights if needs else 0
    if wanted == 1 and weights <= CPU_WEIGHTS:
        return []
    reason = f"engine.args asks for {wanted}" if wanted > 1 else f"weights of about {size(weights)}"
    detail = f"the recipe wants a GPU ({reason}), and this environment has no CUDA build of vLLM"
    return [missing("gpu", detail, "on a machine with one: pip install '.[datagen,train,bench,cuda]'")]


def _too_small(gpus: tuple[Gpu, ...], args: Mapping[str, Any], weights: int) -> list[Finding]:
    share = args.get("gpu_memory_utilization")
    share = float(share) if isinstance(share, int | float) else UTILISATION
    smallest = min(gpu.memory for gpu in gpus)
    if smallest == 0 or weights < smallest * share:
        return []
    detail = f"weights of about {size(weights)} a GPU (estimate) do not fit {share:g} of its {size(smallest)}"
    mend = "raise engine.args.tensor_parallel_size, or choose a smaller verifier or dtype"
    return [missing("gpu", detail, mend)]


def _answer(command: tuple[str, ...]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_SECONDS).stdout


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        said: str = (error.stdout or error.stderr or "").strip()
        return said.partition("\n")[0] or f"exit code {error.returncode}"
    return f"no answer in {TIMEOUT_SECONDS} s" if isinstance(error, subprocess.TimeoutExpired) else str(error)


def _runtime() -> int:
    """CUDA's major version of the runtime that torch brought along; 0 when it is not a package."""
    for name in RUNTIMES:
        try:
            return int(metadata.version(name).partition(".")[0])
        except (metadata.PackageNotFoundError, ValueError):
            continue
    return 0


def parts(args: Mapping[str, Any]) -> int:
    """Over how many GPUs ``engine.args`` part the weights."""
    return _count(args.get("tensor_parallel_size")) * _count(args.get("pipeline_parallel_size"))


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 1
