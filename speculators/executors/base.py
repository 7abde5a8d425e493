"""The one seam between a plan and the machine it runs on: ``run`` a step, ``serve`` a service.

Everything above this seam is pure bookkeeping; a test replaces it with a dozen lines, and another
kind of machine is one more class with these two methods, and a word on what is inside of it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from speculators.executors.interior import Interior

LOG_TAIL_LINES = 20
#: How long an interrupted step may take to save its work.
SAVE_SECONDS = 30.0

OnLine = Callable[[str], None]


@dataclass(frozen=True)
class Needs:
    """What a step or service may reach beyond its own program: all of it where there are walls.

    ``role`` names the image (``images.py``); ``reads`` and ``writes`` are files and folders, at the same
    absolute paths inside as outside; ``gpus`` says that it computes on them where the recipe has any.
    """

    role: str = "engine"
    reads: Sequence[Path] = ()
    writes: Sequence[Path] = ()
    gpus: bool = False


NOTHING = Needs()


@dataclass(frozen=True)
class Step:
    """One command that runs to its end.

    ``env`` is added to the environment that the executor gives.  ``holds``: open files of the runner that
    stay open until everything of the step has ended, so that a lock on them outlives a killed runner just
    as long as its processes do.  A step that has not ended after ``seconds`` is ended; None: it may take all
    it wants.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    holds: Sequence[int] = ()
    needs: Needs = NOTHING
    seconds: float | None = None


@dataclass(frozen=True)
class Service:
    """One server.  ``argv`` is its command for the port that the executor chooses, on the loopback address.

    ``holds`` as for a step.  There is no start-up time-out here: readiness is a question to the server's
    own protocol, so the client that runs beside it asks it.  ``beside``: a server that was started before,
    where one client is to reach both.
    """

    name: str
    argv: Callable[[int], Sequence[str]]
    env: Mapping[str, str]
    log: Path
    holds: Sequence[int] = ()
    needs: Needs = NOTHING
    beside: Endpoint | None = None


class Cause(NamedTuple):
    """Why something ended, and what to do about it; empty where nobody knows."""

    text: str = ""
    hint: str = ""


UNKNOWN = Cause()


@dataclass(frozen=True)
class Endpoint:
    """A service that was started: where its client finds it, and how to see that it has died.

    ``command``: a line for a shell that starts it again by hand.  ``why``: once it has died, the cause and
    the way out, where the executor knows more than the exit code.
    """

    name: str
    url: str
    command: str
    log: Path
    exit_code: Callable[[], int | None]
    why: Callable[[], Cause] = lambda: UNKNOWN


class StepResult(NamedTuple):
    """How a step ended.

    ``exit_code`` is 128 + n when signal n ended it.  ``cause``: where the executor knows better than the exit
    code why it did.
    """

    exit_code: int
    seconds: float
    log: Path
    cause: Cause = UNKNOWN


class Executor(Protocol):
    """What a plan needs of a machine."""

    def run(
        self, step: Step, *, on_line: OnLine | None = None, beside: Sequence[Endpoint] = ()
    ) -> StepResult:
        """Run ``step`` to its end; each line of its output goes to its log and to ``on_line``.

        With ``beside`` the step is the client of those servers: when one of them ends first the client is
        ended too.  On KeyboardInterrupt the step is asked to end and gets ``SAVE_SECONDS`` for it; a second
        one ends it at once.

        Raises:
            StageError: a server beside the step died, or the step took longer than it may.
            MachineError: the command does not exist.
        """

    def serve(self, service: Service) -> AbstractContextManager[Endpoint]:
        """Start ``service``; leaving the context ends it and all its descendants, whatever happened."""

    def interior(self, role: str) -> Interior:
        """What the steps of ``role`` find around them: interpreter, packages, engine."""

    def label(self, run: str) -> None:
        """Mark what is started from now on as belonging to the run of that id."""

    def command(self, step: Step) -> str:
        """A line for a shell that runs ``step`` again by hand."""


def command_text(environment: Mapping[str, str], argv: Sequence[str]) -> str:
    """A command as one line for a shell."""
    variables = [f"{name}={value}" for name, value in sorted(environment.items())]
    return shlex.join([*(["env", *variables] if variables else []), *argv]) + "\n"


def log_tail(log: Path, lines: int = LOG_TAIL_LINES) -> str:
    """The last lines of a log file; empty when nothing was written."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def last_object(log: Path) -> str:
    """The last line of a log that is a JSON object; empty when there is none.

    Not simply the last line: what a program says on its two streams comes out in no certain order.
    """
    for line in reversed(log_tail(log).splitlines()):
        with suppress(ValueError):
            if isinstance(json.loads(line), dict):
                return line
    return ""
