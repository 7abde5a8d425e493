"""Room and permission where a run writes: the store of finished stages, and the run folders."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from speculators.pipeline.machine.findings import Finding, missing, ok, warning
from speculators.quantities import size

#: The estimate is an upper bound, for few answers are as long as they may be.  Hardly any data set
#: stays below half of it.
CLEARLY = 0.5


class Place(NamedTuple):
    """A folder that a run writes to.  ``problem`` says why it may not; ``mend`` is the way out."""

    name: str
    folder: Path
    free: int
    problem: str
    mend: str


def look(name: str, folder: Path, mend: str) -> Place:
    """Free bytes and permission; a folder that is not there yet is judged by its nearest parent."""
    present = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=present):
            problem = ""
    except OSError as error:
        problem = f"{present}: {error.strerror or error}"
    return Place(name, folder, shutil.disk_usage(present).free, problem, mend)


def judge_place(place: Place, needed: int | None) -> Finding:
    """``needed`` is None without a recipe."""
    told = f"{place.folder}: {size(place.free)} free"
    if place.problem:
        return missing(place.name, f"cannot write: {place.problem}", place.mend)
    if needed is None:
        return ok(place.name, told)
    told += f"; a first run takes at most about {size(needed)} (estimate)"
    if place.free >= needed:
        return ok(place.name, told)
    mend = f"free some space, lower datagen.max_tokens or the number of prompts, or {place.mend}"
    return (missing if place.free < CLEARLY * needed else warning)(place.name, told, mend)
