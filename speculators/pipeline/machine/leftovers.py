"""What interrupted runs left in the store: unfinished outputs and lock files that nobody holds.

An unfinished output is not rubbish: the next attempt of the same stage continues from it or clears
it.  So it is removed only when a person asks, and never while a run holds its lock.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from speculators.pipeline.machine.findings import Finding, missing, ok, warning
from speculators.pipeline.store import LOCK, PARTIAL, REPLACED
from speculators.quantities import size

CHECK = "left-overs"
#: What is filled, and what was being replaced when its run was killed.
UNFINISHED = (f"*/*{PARTIAL}", f"*/*{REPLACED}*")
#: A lock file younger than this may belong to a run that has opened it and is about to lock it.
OLD_LOCK_SECONDS = 3600.0


class Partial(NamedTuple):
    """An unfinished output that nobody is working on."""

    folder: Path
    bytes: int

    def __str__(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name} ({size(self.bytes)})"


def leftover_findings(root: Path) -> list[Finding]:
    """Reads only: no lock file is made."""
    away = "`speculators doctor --clean` removes it"
    found = [
        warning(CHECK, f"replaced, and of no more use: {partial}", away)
        if REPLACED in partial.folder.name
        else warning(
            CHECK, f"unfinished and unused: {partial}", f"the same `speculators run` continues it; {away}"
        )
        for partial in stale_partials(root)
    ]
    return found or [ok(CHECK, "no unfinished output without an owner")]


def clean(root: Path) -> list[Finding]:
    """Remove unfinished outputs and old lock files that nobody holds; says what was done."""
    found = [_remove(partial) for partial in stale_partials(root)]
    if locks := sum(_remove_lock(path) for path in sorted(root.glob(f"*/*{LOCK}"))):
        found.append(ok(CHECK, f"removed {locks} old lock file{'s' if locks > 1 else ''}"))
    return found


def clean_replaced(root: Path) -> None:
    """Remove what a killed run or removal had only set aside: unlike unfinished work it is of no use."""
    for partial in stale_partials(root, UNFINISHED[1:]):
        _remove(partial)


def stale_partials(root: Path, patterns: tuple[str, ...] = UNFINISHED) -> list[Partial]:
    return [
        Partial(folder, folder_bytes(folder))
        for folder in sorted(found for pattern in patterns for found in root.glob(pattern))
        if folder.is_dir() and is_free(_lock_of(folder))
    ]


def is_free(lock: Path) -> bool:
    """Whether no process holds ``lock``; one that does not exist is held by nobody."""
    try:
        with lock.open() as file, _held(file) as got:
            return got
    except FileNotFoundError:
        return True


def _remove(partial: Partial) -> Finding:
    """Remove one unfinished output while holding its lock, as the run that made it did."""
    try:
        with _lock_of(partial.folder).open("a") as file, _held(file) as got:
            if not got:
                return ok(CHECK, f"kept {partial}: a run has taken it up")
            shutil.rmtree(partial.folder)
    except OSError as error:
        mend = "remove it by hand, as the user who owns it"
        return missing(CHECK, f"cannot remove {partial}: {error.strerror or error}", mend)
    return ok(CHECK, f"removed {partial}; that stage starts over")


def _remove_lock(path: Path) -> bool:
    """Unlink an old lock file while holding it; whether that was done."""
    try:
        with path.open() as file, _held(file) as got:
            if not got or time.time() - os.fstat(file.fileno()).st_mtime < OLD_LOCK_SECONDS:
                return False
            path.unlink()
            return True
    except OSError:
        return False


@contextmanager
def _held(file: IO[str]) -> Iterator[bool]:
    """Try to lock ``file`` without waiting; closing it gives the lock back."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name.partition(".")[0] + LOCK)


def folder_bytes(folder: Path) -> int:
    """Size of all files below; one that vanishes meanwhile counts nothing, a link only itself."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total
