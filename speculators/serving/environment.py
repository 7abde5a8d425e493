"""The variables that an engine process needs, known before it starts.

Two of them decide CPU speed (Intel's OpenMP must be preloaded, and vLLM's own thread binding leaves
one thread on a two-core machine), so they cannot be set from inside: whoever starts a process that
will run vLLM, offline or as a server, starts it with this environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["engine_environment", "has_cpu_engine", "openmp_library"]

#: Verifiers are prepared on disk before an engine starts: it has no reason to reach the network.
OFFLINE = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}

#: "auto" reserves a core for the scheduler, which on two cores halves the speed.
CPU_THREADS = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def has_cpu_engine() -> bool:
    """Whether the vLLM installed here is a CPU build, judged by distribution metadata alone."""
    return _version("vllm-cpu") is not None or "+cpu" in (_version("vllm") or "")


def openmp_library(prefix: Path | None = None) -> Path | None:
    """Intel's OpenMP runtime in the environment's ``lib`` folder, or None."""
    path = (prefix or Path(sys.prefix)) / "lib" / "libiomp5.so"
    return path if path.is_file() else None


def engine_environment(recipe_env: Mapping[str, str]) -> dict[str, str]:
    """Variables to add to the environment of a process that runs vLLM; the recipe's ``engine.env`` wins."""
    variables = dict(OFFLINE)
    if has_cpu_engine():
        variables |= CPU_THREADS
        if library := openmp_library():
            variables["LD_PRELOAD"] = _preloaded(os.environ.get("LD_PRELOAD", ""), str(library))
    return variables | {name: str(value) for name, value in recipe_env.items()}


def _preloaded(present: str, library: str) -> str:
    """The preload list ``present`` with ``library`` in it once."""
    others = [entry for entry in present.replace(" ", ":").split(":") if entry and entry != library]
    return ":".join([library, *others])


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
