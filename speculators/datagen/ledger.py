"""The book of responses: what happened to every row, so that a small data set is never a riddle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speculators.documents import read_json, read_jsonl
from speculators.errors import StageError

__all__ = ["INDEX", "LEDGER", "Entry", "check_responses", "summary"]

INDEX = "index.json"
LEDGER = "ledger.json"


class Entry(NamedTuple):
    """One row's fate.  ``dropped`` is the reason why it was left out; ``tokens`` counts its answer's ids."""

    dropped: str | None
    tokens: int
    looping: bool
    finish_reason: str


def summary(booked: Sequence[Entry]) -> dict[str, Any]:
    """Counts of kept rows, of their answers' tokens, and of dropped rows by reason."""
    kept = [entry for entry in booked if entry.dropped is None]
    return {
        "rows": len(kept),
        "tokens": sum(entry.tokens for entry in kept),
        "looping": sum(entry.looping for entry in kept),
        "length_limited": sum(entry.finish_reason == "length" for entry in kept),
        "dropped": dict(sorted(Counter(entry.dropped for entry in booked if entry.dropped).items())),
    }


def check_responses(folder: Path) -> None:
    """Refuse responses of which index, shards and ledger tell different stories.

    Raises:
        StageError: rows or tokens of a shard are not what the index says, or their sums not the ledger's.
    """
    shards = read_json(folder / INDEX)["shards"]
    for shard in shards:
        answers = [len(row["output_token_ids"]) for row in read_jsonl(folder / shard["file"])]
        _require_equal(folder / shard["file"], (len(answers), sum(answers)), INDEX, shard)
    totals = (sum(shard["rows"] for shard in shards), sum(shard["tokens"] for shard in shards))
    _require_equal(folder / INDEX, totals, LEDGER, read_json(folder / LEDGER))


def _require_equal(path: Path, found: tuple[int, int], where: str, said: dict[str, Any]) -> None:
    if found != (said["rows"], said["tokens"]):
        raise StageError(
            f"{path}: {found[0]} rows with {found[1]} tokens, "
            f"but {where} says {said['rows']} rows with {said['tokens']} tokens",
            rule="disagreement",
        )
