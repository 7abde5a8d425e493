"""Where finished stage outputs live, addressed by what they depend on.

``$SPECULATORS_HOME`` (by default the user's cache directory) holds ``store/<stage>/<key>/``.  An
output is filled under ``<key>.partial`` and renamed when it is complete, so a folder without that
ending is whole.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speculators.stages.documents import OUTPUT_NAME


def default_home() -> Path:
    """``$SPECULATORS_HOME``, else ``speculators`` in the user's cache directory."""
    if home := os.environ.get("SPECULATORS_HOME"):
        return Path(home).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().absolute() / "speculators"


class Store:
    """The finished outputs below one folder."""

    def __init__(self, home: Path) -> None:
        self.root = home / "store"

    def path(self, stage: str, key: str) -> Path:
        return self.root / stage / key[:32]

    def find(self, stage: str, key: str) -> Path | None:
        """The finished output of ``stage`` for ``key``, if there is one."""
        path = self.path(stage, key)
        return path if (path / OUTPUT_NAME).is_file() else None

    @contextmanager
    def filling(self, stage: str, key: str) -> Iterator[Path]:
        """A folder to fill, which becomes the output if the block ends without an error.

        A failed block leaves the folder as it is, for reading and for the next attempt of the same key,
        which continues from it or clears it (``stages/__main__.py``).
        """
        path = self.path(stage, key)
        partial = path.with_name(path.name + ".partial")
        partial.mkdir(parents=True, exist_ok=True)
        yield partial
        if path.exists():
            shutil.rmtree(path)
        os.replace(partial, path)

    @contextmanager
    def locked(self, stage: str, key: str) -> Iterator[None]:
        """Hold ``key`` alone; another run that wants it waits.  The kernel frees it on death."""
        path = self.path(stage, key).with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
