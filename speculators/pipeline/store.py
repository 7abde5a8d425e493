"""Where finished stage outputs live, addressed by what they depend on.

``$SPECULATORS_HOME`` (by default the user's cache directory) holds ``store/<stage>/<key>/``.  An
output is filled under ``<key>.partial`` and renamed when it is complete, so a folder without an ending
is whole; ``key.json`` in it says what the key was made of, and its time when the output was last
used.  A link stands where a user
accepted an output for another key.

Who uses an output holds its lock shared, who makes it holds it alone.  Locks are ``flock``: the
kernel frees them when their holders die, and there is nothing to clean up by hand.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from speculators.documents import known_json, value_digest
from speculators.errors import StageError
from speculators.stages.documents import OUTPUT_NAME, output_bytes, read_output

KEY_NAME = "key.json"
KEY_LENGTH = 32  # hex digits of a folder's name
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

    def take(self, *, alone: bool) -> None:
        """Wait for the lock and take it."""
        fcntl.flock(self._file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if self._was_removed():
            self._file.close()
            self._file = self._path.open("a")
            self.take(alone=alone)

    def try_take(self, *, alone: bool) -> bool:
        """Take the lock if that is possible at once."""
        try:
            fcntl.flock(self._file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if self._was_removed():
            self.take(alone=alone)
        return True

    def _was_removed(self) -> bool:
        """Whether ``doctor --clean`` took the file away between opening and locking it."""
        try:
            return self._path.stat().st_ino != os.fstat(self.fileno()).st_ino
        except FileNotFoundError:
            return True

    def release(self) -> None:
        """Let others have it; ``take`` takes it again."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

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
        return self.root / stage / key[:KEY_LENGTH]

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
            parts = known_json(Path(entry.path) / KEY_NAME)
            if value_digest(parts)[:KEY_LENGTH] != entry.name:
                continue  # damaged, or of another version
            found.append(Kept(Path(entry.path), parts, entry.stat().st_mtime))
        return sorted(found, key=lambda kept: kept.made, reverse=True)

    def mark_used(self, output: Path) -> None:
        """Note that a run uses ``output`` now; where that cannot be written, it cannot be removed either."""
        with suppress(OSError):
            os.utime(output / KEY_NAME)

    def set_aside(self, stage: str, key: str) -> None:
        """Take a finished output out of the way, so that an interrupted remake of it continues."""
        path = self.path(stage, key)
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            path.replace(path.with_name(f"{path.name}{REPLACED}{time.time_ns()}"))

    @contextmanager
    def filling(self, stage: str, key: str) -> Iterator[Path]:
        """A folder to fill, which becomes the output if the block ends without an error.

        A failed block leaves the folder as it is, for reading and for the next attempt of the same key,
        which continues from it or clears it (``stages/__main__.py``).
        """
        path, partial = self.path(stage, key), self.partial(stage, key)
        partial.mkdir(parents=True, exist_ok=True)
        yield partial
        # Renamed first: a kill in between leaves nothing that looks whole and is not.
        self.set_aside(stage, key)
        partial.replace(path)
        for replaced in path.parent.glob(f"{path.name}{REPLACED}*"):
            shutil.rmtree(replaced, ignore_errors=True)

    def discard_work(self, stage: str, key: str) -> None:
        """Forget what an interrupted attempt left."""
        shutil.rmtree(self.partial(stage, key), ignore_errors=True)

    def accept(self, stage: str, key: str, output: Path) -> Path:
        """Let ``output`` stand for ``key`` from now on."""
        link = self.path(stage, key)
        partial = link.with_name(f"{link.name}.link-{os.getpid()}")
        partial.unlink(missing_ok=True)
        partial.symlink_to(output.name)
        partial.replace(link)
        return output
