"""Texts that say nearly the same: equal but for a few words.

A benchmark prompt that resembles a training prompt measures memory, and near-copies in training data
cost time without teaching.  Two texts are near-duplicates if the Jaccard similarity of their word
5-gram sets reaches a threshold.

Similarity search is exact: with all shingles in one fixed order, two sets of similarity t must share a
shingle within their first ``n - ceil(t * n) + 1`` (prefix filtering; Bayardo, Ma, Srikant, "Scaling up
all pairs similarity search", WWW 2007).  Ordering rare shingles first keeps the posting lists short.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable

__all__ = ["NearDuplicates", "shingles", "similarity"]

Shingle = tuple[str, ...]

WORDS = 5
THRESHOLD = 0.5


def shingles(text: str, words: int = WORDS) -> frozenset[Shingle]:
    """The word n-grams of ``text``, case and punctuation ignored; a shorter text is one shingle."""
    found = re.findall(r"\w+", text.casefold())
    if len(found) <= words:
        return frozenset([tuple(found)]) if found else frozenset()
    return frozenset(tuple(found[start : start + words]) for start in range(len(found) - words + 1))


def similarity(one: frozenset[Shingle], other: frozenset[Shingle]) -> float:
    """Jaccard similarity: shared over all shingles; 0 if both are empty."""
    union = len(one | other)
    return len(one & other) / union if union else 0.0


class NearDuplicates:
    """An index of texts by name that finds one similar to a new text.

    ``expected`` are texts to learn from which shingles are common; they only affect speed.
    """

    def __init__(self, threshold: float = THRESHOLD, expected: Iterable[str] = ()) -> None:
        self._threshold = threshold
        self._common = Counter(shingle for text in expected for shingle in shingles(text))
        self._names: list[str] = []
        self._sets: list[frozenset[Shingle]] = []
        self._postings: dict[Shingle, list[int]] = defaultdict(list)

    def add(self, name: str, text: str) -> None:
        """Remember ``text`` under ``name``."""
        added = shingles(text)
        for shingle in self._prefix(added):
            self._postings[shingle].append(len(self._sets))
        self._names.append(name)
        self._sets.append(added)

    def similar(self, text: str) -> str | None:
        """The name of the most similar text at or above the threshold (the earliest added of equals)."""
        wanted = shingles(text)
        candidates = {
            number for shingle in self._prefix(wanted) for number in self._postings.get(shingle, ())
        }
        scores = {number: similarity(wanted, self._sets[number]) for number in candidates}
        best = min(scores, key=lambda number: (-scores[number], number), default=None)
        return self._names[best] if best is not None and scores[best] >= self._threshold else None

    def _prefix(self, wanted: frozenset[Shingle]) -> list[Shingle]:
        if not wanted:
            return []
        ordered = sorted(wanted, key=lambda shingle: (self._common[shingle], shingle))
        return ordered[: len(ordered) - math.ceil(self._threshold * len(ordered)) + 1]
