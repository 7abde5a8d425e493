"""The rounds that an earlier attempt left in a benchmark's folder: whole ones, and those set aside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speculators.benchmark.rounds import Launch, round_folder
from speculators.documents import read_json, write_json
from speculators.errors import StageError
from speculators.stages.documents import damaged_files, read_output

#: The client's output in a launch's folder.
CLIENT = "client"
#: Where rounds lie that could not be compared and were measured again, and in each of them the reason.
SET_ASIDE, REASON = "set-aside", "reason.json"


def finished_rounds(folder: Path, launches: Sequence[Launch]) -> frozenset[int]:
    """Rounds of which every launch left its sealed result in ``folder``, whole."""
    unfinished = {one.round for one in launches if not _is_whole(folder / one.folder / CLIENT)}
    return frozenset({one.round for one in launches} - unfinished)


def _is_whole(output: Path) -> bool:
    try:
        return not damaged_files(output, read_output(output))
    except StageError:
        return False


def set_aside(folder: Path, number: int, why: str) -> None:
    """Let round ``number`` be measured again; what it left stays beside the others, with the reason."""
    place, gone = folder / round_folder(number), folder / SET_ASIDE
    write_json(place / REASON, {"round": number, "why": why})
    gone.mkdir(exist_ok=True)
    earlier = len(list(gone.glob(f"{place.name}-*")))
    place.rename(gone / f"{place.name}-{earlier + 1}")


def rounds_set_aside(folder: Path) -> list[dict[str, Any]]:
    """The rounds that were measured again, as ``{"round", "why"}``."""
    return [read_json(one) for one in sorted((folder / SET_ASIDE).glob(f"*/{REASON}"))]
