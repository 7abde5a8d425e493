"""Supervised processes whose run is gone, and how to end them.

A supervisor ends by itself when the last write end of its standard input closes.  It stays when
something else inherited that pipe, or when it is stopped.  Whose run is gone is read from the same
pipe: the runner is the parent and holds the other end.  A parent's name or number would be no proof,
for a runner may be any program, even process 1 of a container.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from speculators.executors import supervise
from speculators.executors.child import STOP_SECONDS, session_members
from speculators.pipeline.machine.findings import Finding, missing, ok, warning

CHECK = "processes"
#: The local executor starts ``python -S .../executors/supervise.py -- COMMAND``.
SUPERVISOR = ("executors", "supervise.py")
COMMAND_AT = 4
#: The Docker executor starts ``python -m speculators.executors.container REQUEST``.
CLIENT = ["-m", "speculators.executors.container"]
POLL_SECONDS = 0.05
COMMAND_WORDS = 4


class Orphan(NamedTuple):
    """``started`` in clock ticks tells a process from a later one with the same id."""

    process: int
    started: int
    command: str

    def __str__(self) -> str:
        return f"process {self.process}, which runs '{self.command}'"


def orphan_findings() -> list[Finding]:
    mend = "`speculators doctor --clean` ends it and all that it started"
    found = [warning(CHECK, f"{orphan}: its run is gone, or is just ending it", mend) for orphan in orphans()]
    return found or [ok(CHECK, "no stage or server without its run")]


def clean() -> list[Finding]:
    """End every orphan and its descendants; says what was done."""
    return [
        ok(CHECK, f"ended {orphan}")
        if end(orphan)
        else missing(CHECK, f"cannot end {orphan}", f"kill -9 {orphan.process}")
        for orphan in orphans()
    ]


def orphans() -> list[Orphan]:
    """Supervisors of this user whose parent does not hold their standard input."""
    parents = supervise.parents()
    found = ((process, parent, _words(process)) for process, parent in parents.items())
    return [
        Orphan(process, supervise.started(process), " ".join(_command(words)[:COMMAND_WORDS]))
        for process, parent, words in found
        if _is_supervisor(words) and _owner(process) == os.geteuid() and _is_left(process, parent)
    ]


def end(orphan: Orphan) -> bool:
    """SIGTERM, on which a supervisor ends its descendants; SIGKILL to all of them when it does not."""
    family = _family(orphan)
    _signal(orphan, signal.SIGTERM)
    if _ends(orphan, STOP_SECONDS):
        return True
    for member in {orphan, *family, *_family(orphan)}:
        _signal(member, signal.SIGKILL)
    return _ends(orphan, STOP_SECONDS)


def _family(orphan: Orphan) -> list[Orphan]:
    processes = {*supervise.descendants(orphan.process), *session_members(orphan.process)}
    return [Orphan(process, supervise.started(process), "") for process in processes - {orphan.process}]


def _command(words: list[str]) -> list[str]:
    return words[2:] if words[1:3] == CLIENT else words[COMMAND_AT:]


def _is_supervisor(words: list[str]) -> bool:
    if words[1:3] == CLIENT:
        return True
    if len(words) <= COMMAND_AT or (words[1], words[3]) != ("-S", "--"):
        return False
    return Path(words[2]).parts[-2:] == SUPERVISOR


def _is_left(process: int, parent: int) -> bool:
    """Whether ``parent`` is surely not the runner.  What cannot be read is no proof."""
    pipe = _link(process, 0)
    if pipe is None or not pipe.startswith("pipe:"):
        return False  # started by hand
    if _owner(parent) not in (os.geteuid(), None):
        return True  # a runner is the same user's
    try:
        numbers = os.listdir(f"/proc/{parent}/fd")
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return all(_link(parent, number) != pipe for number in numbers)


def _link(process: int, descriptor: int | str) -> str | None:
    try:
        return os.readlink(f"/proc/{process}/fd/{descriptor}")
    except OSError:
        return None


def _words(process: int) -> list[str]:
    try:
        return Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _owner(process: int) -> int | None:
    try:
        return os.stat(f"/proc/{process}").st_uid
    except OSError:
        return None


def _lives(orphan: Orphan) -> bool:
    return orphan.process in supervise.parents() and supervise.started(orphan.process) == orphan.started


def _signal(orphan: Orphan, number: int) -> None:
    if orphan.started and supervise.started(orphan.process) == orphan.started:
        with suppress(ProcessLookupError):
            os.kill(orphan.process, number)


def _ends(orphan: Orphan, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not _lives(orphan):
            return True
        time.sleep(POLL_SECONDS)
    return not _lives(orphan)
