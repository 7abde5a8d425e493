"""Did you mean ...?  The nearest known word to an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` most likely stands for: a near spelling or its initials."""
    candidates = list(known)
    folded = word.lower().replace("-", "_")
    if matches := difflib.get_close_matches(folded, candidates, n=1, cutoff=0.6):
        return matches[0]
    by_initials = [name for name in candidates if _initials(name) == folded and len(folded) > 1]
    return by_initials[0] if len(by_initials) == 1 else None


def _initials(name: str) -> str:
    return "".join(part[0] for part in name.split("_") if part)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?``, or nothing."""
    match = nearest(word, known)
    return f"did you mean '{match}'?" if match else ""


def listing(words: Iterable[str], last: str = "and") -> str:
    """``a, b and c``."""
    items = list(words)
    return f"{', '.join(items[:-1])} {last} {items[-1]}" if len(items) > 1 else "".join(items)
