"""The reference system, vllm-project/speculators, in an environment and a process of its own.

Its package has this project's name, so one interpreter can import only one of them.  Its wheel goes
to a folder of the cache without its dependencies, which this environment already has; a process with
that folder first on its path is the reference's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from speculators.pipeline.store import default_home

PACKAGES = ("speculators==0.9.0", "hs-connectors==0.9.0")
INSIDE = Path(__file__).parent / "inside"
INSTALL_SECONDS = 300


class UnavailableError(Exception):
    """The reference's package cannot be had here."""


class SideError(Exception):
    """A side's process ended, or answered with an error."""


def reference_folder() -> Path:
    """The folder that holds the reference's package, installed there by pip if it is not.

    Raises:
        UnavailableError: pip cannot fetch it.
    """
    folder = default_home() / "reference" / PACKAGES[0]
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="install-", dir=folder.parent) as scratch:
        partial = Path(scratch, "packages")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
        command += ["--disable-pip-version-check", "--only-binary", ":all:", "--target", str(partial)]
        try:
            done = subprocess.run(
                [*command, *PACKAGES], capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(f"{PACKAGES[0]}: not installed within {INSTALL_SECONDS} s") from error
        if done.returncode:
            raise UnavailableError(
                f"{PACKAGES[0]}: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}"
            )
        shutil.rmtree(folder, ignore_errors=True)  # another process may have been faster
        partial.rename(folder)
    return folder


def reference_environment(folder: Path) -> dict[str, str]:
    """The variables of the reference's process: its package first, no hub, no accelerator."""
    return {**os.environ, "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


class Side:
    """A process that answers requests over a pipe (see ``inside/pipe.py``); ends with the block."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        with open(log, "a", encoding="utf-8") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=environment,
            )

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            SideError: the process ended, or its answer is an error.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"verb": verb, **arguments}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self.process.wait()
            raise SideError(f"{verb}: the process ended with exit code {code}\n{self.tail()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SideError(f"{verb}: {answer['error']}\n{self.tail()}")
        return answer

    def tail(self) -> str:
        """The last of what the process said on stderr."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-2000:]

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()  # the end of its requests
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def reference_side(log: Path) -> Side:
    """The reference's process, started.

    Raises:
        UnavailableError: its package cannot be had.
    """
    command = [sys.executable, str(INSIDE / "reference.py")]
    return Side(command, reference_environment(reference_folder()), log)
