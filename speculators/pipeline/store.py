"""Where finished stage outputs live, addressed by what they depend on.

``$SPECULATORS_HOME`` (by default the user's cache directory) holds ``store/<stage>/<key>/``.  An
output is filled under ``<key>.partial`` and renamed when it is complete, so a folder without that
ending is whole; ``key.json`` in it says what the key was made of.  A link stands where a user
accepted an output for another key.

Who uses an output holds its lock shared, who makes it holds it alone.  Locks are ``flock``: the
kernel frees them when their holders die, and there is nothing to clean up by hand.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from speculators.documents import read_json
from speculators.errors import StageError
from speculators.stages.documents import OUTPUT_NAME, output_bytes, read_output

KEY_NAME = "key.json"
PARTIAL = ".partial"
LOCK = ".lock"
REPLACED = ".replaced-"


def default_home() -> Path:
    """``$SPECULATORS_HOME``, else ``speculators`` in the user's cache directory."""
    if home := os.environ.get("SPECULATORS_HOME"):
        return Path(home).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().absolute() / "speculators"


class Cost(NamedTuple):
    """Seconds of work and bytes of disk."""

    seconds: float
    bytes: int


class Kept(NamedTuple):
    """One finished output as the plan sees it."""

    path: Path
    parts: dict[str, Any]  # of its key
    made: float  # seconds since the epoch

    def cost(self) -> Cost | None:
        """What the output took; None when its document is damaged."""
        try:
            document = read_output(self.path)
        except StageError:
            return None
        return Cost(float(document["seconds"]), output_bytes(document))


class Lock:
    """An open lock file.  ``fileno`` may be handed to a process that shall keep it locked."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file: IO[str] = path.open("a")

    def fileno(self) -> int:
        return self._file.fileno()

    def take(self, *, alone: bool, announce: Callable[[], None] | None = None) -> None:
        """Wait for the lock; ``announce`` is called when there is something to wait for."""
        mode = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        try:
            fcntl.flock(self._file, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            if announce is not None:
                announce()
            fcntl.flock(self._file, mode)
        if self._was_removed():
            self._file.close()
            self._file = self._path.open("a")
            self.take(alone=alone, announce=announce)

    def _was_removed(self) -> bool:
        """Whether ``doctor --clean`` took the file away between opening and locking it."""
        try:
            return self._path.stat().st_ino != os.fstat(self.fileno()).st_ino
        except FileNotFoundError:
            return True

    def try_alone(self) -> bool:
        """Take the lock alone if nobody holds it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def sign(self) -> None:
        """Leave this process's id in the file, for ``holder_lives``."""
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def holder_lives(self) -> bool:
        """Whether the process that signed the lock still runs; its own children may outlive it."""
        try:
            os.kill(int(self._path.read_text(encoding="utf-8")), 0)
        except (ValueError, ProcessLookupError):
            return False
        except PermissionError:
            return True
        return True

    def close(self) -> None:
        self._file.close()


class Store:
    """The finished outputs below one folder."""

    def __init__(self, home: Path) -> None:
        self.root = home / "store"

    def path(self, stage: str, key: str) -> Path:
        return self.root / stage / key[:32]

    def partial(self, stage: str, key: str) -> Path:
        """Where an output is filled, and where an interrupted attempt left its work."""
        path = self.path(stage, key)
        return path.with_name(path.name + PARTIAL)

    def find(self, stage: str, key: str) -> Path | None:
        """The finished output of ``stage`` for ``key``, if there is one."""
        path = self.path(stage, key)
        return path.resolve() if (path / OUTPUT_NAME).is_file() else None

    def lock(self, stage: str, key: str) -> Lock:
        return Lock(self.path(stage, key).with_suffix(LOCK))

    def history(self, stage: str) -> list[Kept]:
        """All finished outputs of ``stage`` whose key is known, the newest first."""
        folder = self.root / stage
        found = []
        for entry in os.scandir(folder) if folder.is_dir() else ():
            if "." in entry.name or entry.is_symlink() or not entry.is_dir():
                continue
            try:
                parts = read_json(Path(entry.path) / KEY_NAME)
            except (OSError, ValueError):
                continue
            found.append(Kept(Path(entry.path), parts, entry.stat().st_mtime))
        return sorted(found, key=lambda kept: kept.made, reverse=True)

    @contextmanager
    def filling(self, stage: str, key: str) -> Iterator[Path]:
        """A folder to fill, which becomes the output if the block ends without an error.

        A failed block leaves the folder as it is, for reading and for the next attempt of the same key,
        which continues from it or clears it (``stages/__main__.py``).
        """
        path, partial = self.path(stage, key), self.partial(stage, key)
        partial.mkdir(parents=True, exist_ok=True)
        yield partial
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            # Renamed first: a kill between the two leaves nothing that looks whole and is not.
            replaced = path.with_name(f"{path.name}{REPLACED}{time.time_ns()}")
            path.replace(replaced)
            partial.replace(path)
            shutil.rmtree(replaced)
            return
        partial.replace(path)

    def discard_work(self, stage: str, key: str) -> None:
        """Forget what an interrupted attempt left."""
        shutil.rmtree(self.partial(stage, key), ignore_errors=True)

    def accept(self, stage: str, key: str, output: Path) -> Path:
        """Let ``output`` stand for ``key`` from now on."""
        link = self.path(stage, key)
        partial = link.with_name(link.name + ".link")
        partial.unlink(missing_ok=True)
        partial.symlink_to(output.name)
        partial.replace(link)
        return output
