"""The engine: which vLLM, how it is started, and what its CPU build needs of the machine."""

from __future__ import annotations

import ctypes
import platform
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from speculators.errors import MachineError
from speculators.pipeline.machine.findings import Finding, missing, ok, warning
from speculators.serving.environment import has_cpu_engine, openmp_library
from speculators.serving.launcher import Launcher, find_launcher

#: From here to below there, as in the package's extra 'cuda'.
OLDEST, TOO_NEW = (0, 31), (0, 33)
NUMA_LIBRARY = "libnuma.so.1"
OTHER_MACHINE = "use another machine: x86-64 with AVX2, or one with an NVIDIA GPU and vLLM's CUDA build"


class Engine(NamedTuple):
    """What is known of the engine without importing it.  ``flags`` is empty when they are unknown."""

    launcher: Launcher
    is_cpu: bool
    torch: str
    has_numa: bool
    has_openmp: bool
    flags: frozenset[str]
    machine: str


def engine_findings() -> list[Finding]:
    """Nothing without an engine: that it is missing is a finding about packages."""
    engine = look()
    return judge_engine(engine) if engine else []


def look() -> Engine | None:
    try:
        launcher = find_launcher()
    except MachineError:
        return None
    return Engine(
        launcher=launcher,
        is_cpu=has_cpu_engine(),
        torch=_version("torch"),
        has_numa=can_load(NUMA_LIBRARY),
        has_openmp=openmp_library() is not None,
        flags=processor_flags(),
        machine=platform.machine(),
    )


def judge_engine(engine: Engine) -> list[Finding]:
    launcher = engine.launcher
    told = f"{launcher.distribution} {launcher.version}, started by '{launcher.spelled()}'"
    if _is_supported(launcher.version):
        found = [ok("engine", told)]
    else:
        mend = f"install vLLM from {_dotted(OLDEST)} to below {_dotted(TOO_NEW)}"
        found = [warning("engine", f"{told}; this project is written for other versions", mend)]
    return found + (_cpu_findings(engine) if engine.is_cpu else [])


def _cpu_findings(engine: Engine) -> list[Finding]:
    found = []
    if not engine.has_numa:
        mend = "apt-get install libnuma1 (Debian, Ubuntu), or dnf install numactl-libs (Fedora)"
        found.append(missing("engine", f"{NUMA_LIBRARY}, which the CPU engine loads, is not here", mend))
    if engine.torch and "+cpu" not in engine.torch:
        mend = "make setup-local, or pip install torch from https://download.pytorch.org/whl/cpu"
        found.append(
            missing("engine", f"torch {engine.torch} is no CPU build: the CPU engine would not start", mend)
        )
    if not engine.has_openmp:
        mend = "pip install intel-openmp in this environment"
        found.append(warning("engine", "Intel's OpenMP library is not here: the CPU engine is slower", mend))
    return [*found, *_processor_findings(engine)]


def _processor_findings(engine: Engine) -> list[Finding]:
    if engine.machine != "x86_64" or not engine.flags:
        return []
    if "avx2" not in engine.flags:
        return [missing("processor", "no AVX2, which the CPU engine is built for", OTHER_MACHINE)]
    return [ok("processor", "AVX2" + (" and AVX-512" if "avx512f" in engine.flags else ""))]


def can_load(library: str) -> bool:
    """Whether the dynamic linker finds and loads ``library``, asked as the set-up asks."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def processor_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Instruction sets of the first processor (x86 Linux); empty where they cannot be read."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


def _is_supported(version: str) -> bool:
    """Whether a version such as ``0.32.0+cpu`` lies in the range; one that says no number does not."""
    numbers = version.split(".")[:2]
    return all(word.isdigit() for word in numbers) and OLDEST <= tuple(map(int, numbers)) < TOO_NEW


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
