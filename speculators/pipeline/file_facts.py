"""What was found in a large file, remembered until the file changes.

Reading a model of 16 GB takes as long as starting its server, and every run wants its digest.  What was
found is kept in one small file below ``$SPECULATORS_HOME``, with the device, inode, size and times
of the file that it was found in.  A file that was written just now is not remembered: it may change
again within one tick of the clock.  Whatever is wrong with the memory, the file itself is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from speculators.datagen.prepared import data_files
from speculators.datagen.prompt_files import count_rows
from speculators.documents import file_digest, known_json, value_digest, write_json
from speculators.pipeline.store import Lock

MEMORY_NAME = "file-facts.json"
#: Smaller ones are read faster than looked up safely.
LARGE = 1 << 20
SETTLED_SECONDS = 2
MOST_FILES = 500

Fact = TypeVar("Fact", str, int, dict[str, str])


def digest(path: Path, home: Path) -> str:
    """SHA-256 (hex) of the file's bytes."""
    return remembered(path, "sha256", file_digest, home)


def prepared_digest(folder: Path, home: Path) -> str:
    """SHA-256 (hex) over names and contents of a prepared dataset's files.

    They are many, and together may be terabytes: what was found is remembered of all at once.
    """
    files = [path for path in data_files(folder) if path.is_file()]

    def read(_: Path) -> str:
        return value_digest({str(path.relative_to(folder)): file_digest(path) for path in files})

    return _recalled(folder, "prepared", read, home, [folder, *files])


def rows(path: Path, home: Path) -> int:
    """How many rows a prompt file has, by ``count_rows``.

    Raises:
        MachineError: it is a Parquet file, and pyarrow is not installed.
        RecipeError: it is not what its suffix says.
    """
    return remembered(path, "rows", count_rows, home)


def remembered(path: Path, name: str, read: Callable[[Path], Fact], home: Path) -> Fact:
    """What ``read`` finds in the file; of a large one that has not changed, what it found last time.

    Raises:
        OSError: the file cannot be read.
    """
    if path.stat().st_size < LARGE:
        return read(path)
    return _recalled(path, name, read, home, [path])


def _recalled(path: Path, name: str, read: Callable[[Path], Fact], home: Path, parts: list[Path]) -> Fact:
    """What is remembered of ``path`` while none of its ``parts`` has changed, or what is read now."""
    before = path.stat()
    memory, place, (stamp, newest) = home / MEMORY_NAME, f"{before.st_dev}:{before.st_ino}", _stamp(parts)
    known = _entry(known_json(memory), place, stamp)
    if name in known:
        found: Fact = known[name]
        return found
    started = time.time()
    fact = read(path)
    if started - newest > SETTLED_SECONDS and _stamp(parts)[0] == stamp:
        with suppress(OSError):  # a home that cannot be written costs time, nothing else
            _remember(memory, place, stamp, {name: fact})
    return fact


def _stamp(parts: list[Path]) -> tuple[list[Any], float]:
    """What changes when one of the files does, and when the last one did."""
    found = [path.stat() for path in parts]
    # The time of change cannot be set back, as that of modification can.
    each = [[one.st_size, one.st_mtime_ns, one.st_ctime_ns] for one in found]
    newest = max(max(one.st_mtime, one.st_ctime) for one in found)
    return each[0] if len(parts) == 1 else [len(parts), value_digest(each)], newest


def _entry(document: dict[str, Any], place: str, stamp: list[Any]) -> dict[str, Any]:
    entry = document.get(place)
    return entry if isinstance(entry, dict) and entry.get("stamp") == stamp else {}


def _remember(memory: Path, place: str, stamp: list[Any], facts: dict[str, Any]) -> None:
    lock = Lock(memory.with_suffix(".lock"))
    try:
        lock.take(alone=True)
        document = known_json(memory)
        entry = _entry(document, place, stamp)
        document.pop(place, None)
        document[place] = {"stamp": stamp, **entry, **facts}  # the newest at the end
        write_json(memory, dict(list(document.items())[-MOST_FILES:]))
    finally:
        lock.close()
