"""What stores hold: each output's size, age and last use, and which runs refer to it.  Reads only.

An output was last used when it was made, when a run last took it from the store (the time of its
``key.json``), or when a run that names its key started: whichever is latest.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from speculators.documents import known_json
from speculators.errors import StageError
from speculators.pipeline.machine.leftovers import folder_bytes, is_free, stale_partials
from speculators.pipeline.record import RECORD_NAME
from speculators.pipeline.store import KEY_LENGTH, KEY_NAME, LOCK, Store
from speculators.stages.documents import read_output


class Use(NamedTuple):
    """A run that names an output's key."""

    recipe: str
    run: str
    started: float


class Entry(NamedTuple):
    """One finished output.

    ``home``: that of the store that it lies in.  ``seconds``: what making it took; None when its document is
    damaged.
    """

    stage: str
    key: str  # the folder's name
    path: Path
    home: Path
    bytes: int
    seconds: float | None
    made: float
    used: float
    in_use: bool
    uses: tuple[Use, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.stage}/{self.key[:12]}"


class Inventory(NamedTuple):
    """``unfinished``: bytes of what interrupted runs left and nobody works on."""

    homes: tuple[Path, ...]
    entries: tuple[Entry, ...]
    unfinished: int

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.entries) + self.unfinished


def take_inventory(homes: Sequence[Path], runs_dir: Path) -> Inventory:
    """All finished outputs in the stores of ``homes``, the latest used first."""
    uses = uses_of(runs_dir)
    found = [entry for home in homes for entry in entries_in(home, uses)]
    unfinished = sum(partial.bytes for home in homes for partial in stale_partials(Store(home).root))
    return Inventory(tuple(homes), tuple(sorted(found, key=lambda one: -one.used)), unfinished)


def entries_in(home: Path, uses: Mapping[tuple[str, str], list[Use]]) -> Iterator[Entry]:
    """The finished outputs of one store."""
    root = Store(home).root
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        entries = [Path(entry.path) for entry in os.scandir(folder)] if folder.is_dir() else []
        names: defaultdict[str, set[str]] = defaultdict(set)
        for path in entries:
            if path.is_symlink():  # accepted for another key: who refers to that refers to the target
                names[os.readlink(path)].add(path.name)
        for path in entries:
            if "." not in path.name and not path.is_symlink() and path.is_dir():
                keys = {path.name, *names[path.name]}
                known = [use for key in sorted(keys) for use in uses.get((folder.name, key), ())]
                with suppress(FileNotFoundError):  # removed meanwhile
                    yield look_at(path, home, known)


def look_at(path: Path, home: Path, uses: list[Use]) -> Entry:
    """One output of the store of ``home``."""
    made = path.stat().st_mtime
    try:
        seconds = float(read_output(path)["seconds"])
    except StageError:
        seconds = None
    return Entry(
        stage=path.parent.name,
        key=path.name,
        path=path,
        home=home,
        bytes=folder_bytes(path),
        seconds=seconds,
        made=made,
        used=max([made, last_mark(path), *(use.started for use in uses)]),
        in_use=not is_free(path.with_name(path.name + LOCK)),
        uses=tuple(sorted(uses, key=lambda use: -use.started)),
    )


def last_mark(path: Path) -> float:
    """When a run last took the output from the store; 0 when that is not known."""
    try:
        return (path / KEY_NAME).stat().st_mtime
    except OSError:
        return 0.0


def uses_of(runs_dir: Path) -> dict[tuple[str, str], list[Use]]:
    """The runs below ``runs_dir`` by the stage and folder name of each output that they name."""
    found: defaultdict[tuple[str, str], list[Use]] = defaultdict(list)
    for path in sorted(runs_dir.glob(f"*/*/{RECORD_NAME}")):
        if path.parent.is_symlink():  # latest
            continue
        document = known_json(path)
        recipe = document.get("recipe", {}).get("name", path.parent.parent.name)
        use = Use(recipe, path.parent.name, started_at(document))
        attempts = [document, *document.get("attempts", [])]
        named = {
            (stage["name"], stage["key"][:KEY_LENGTH])
            for attempt in attempts
            for stage in attempt.get("stages", [])
            if stage.get("key")
        }
        for place in named:
            found[place].append(use)
    return dict(found)


def started_at(document: Mapping[str, Any]) -> float:
    """When a run started; 0 when its record does not say."""
    try:
        return datetime.strptime(document["started"], "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except (KeyError, TypeError, ValueError):
        return 0.0
