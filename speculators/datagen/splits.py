"""Which topics validate: whole topics, because prompts of one topic share their answers.

A split by row leaks: held-out rows of a trained topic predict an acceptance that no new topic reaches.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable

__all__ = ["validation_topics"]


def validation_topics(row_topics: Iterable[str], fraction: float, seed: int) -> frozenset[str]:
    """Topics for validation: in a seeded order, until they hold ``fraction`` of the rows.

    ``row_topics`` names the topic of every row.  One topic at least stays for training.
    """
    sizes = Counter(row_topics)
    wanted = fraction * sizes.total()
    chosen: list[str] = []
    for topic in sorted(sizes, key=lambda name: _rank(name, seed))[:-1]:
        if sum(sizes[name] for name in chosen) >= wanted:
            break
        chosen.append(topic)
    return frozenset(chosen)


def _rank(topic: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{topic}".encode()).hexdigest()
