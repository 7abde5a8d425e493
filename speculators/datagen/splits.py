"""Which topics validate: whole topics, because prompts of one topic share their answers.

A split by row leaks: held-out rows of a trained topic predict an acceptance that no new topic reaches.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable

__all__ = ["MOST", "validation_topics"]

#: Times the wanted fraction that may be held out: rows that validate do not train.
MOST = 1.5


def validation_topics(row_topics: Iterable[str], fraction: float, seed: int) -> frozenset[str]:
    """Topics for validation: in a seeded order, until they hold ``fraction`` of the rows.

    ``row_topics`` names the topic of every row.  A topic that would hold out more than ``MOST`` times
    the fraction is passed over; if that leaves none, the smallest validates.  One topic at least stays
    for training.
    """
    sizes = Counter(row_topics)
    wanted = fraction * sizes.total()
    if wanted <= 0 or len(sizes) < 2:
        return frozenset()
    ranked = sorted(sizes, key=lambda name: _rank(name, seed))
    chosen: list[str] = []
    held_out = 0
    for topic in ranked:
        if held_out >= wanted or len(chosen) == len(sizes) - 1:
            break
        if held_out + sizes[topic] <= MOST * wanted:
            chosen.append(topic)
            held_out += sizes[topic]
    return frozenset(chosen or [min(ranked, key=lambda name: sizes[name])])


def _rank(topic: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{topic}".encode()).hexdigest()
