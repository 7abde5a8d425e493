"""The book of responses: what happened to every row, so that a small data set is never a riddle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["Entry", "summary"]


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
