"""Which prompts stay: each only once, and none that resembles a benchmark prompt.

Every prompt that goes is counted under a reason and named, so that a small data set is never a riddle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from speculators.datagen.near_duplicates import NearDuplicates
from speculators.datagen.prompts import Prompt

__all__ = ["Selection", "unique_prompts"]

#: Of dropped prompts written by files (people can look them up), this many are named for each reason.
NAMED = 20


def unique_prompts(prompts: Iterable[Prompt]) -> list[Prompt]:
    """The prompts in order, each user text once."""
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        first.setdefault(normalised(prompt.text), prompt)
    return list(first.values())


def normalised(text: str) -> str:
    """``text`` without differences of case and white space."""
    return " ".join(text.casefold().split())


class Selection:
    """Takes prompts one by one; keeps the good ones and the book of the others."""

    def __init__(self, benchmark: Sequence[Prompt], expected: Sequence[Prompt] = ()) -> None:
        texts = [prompt.text for prompt in (*benchmark, *expected)]
        self._benchmark = NearDuplicates(expected=texts)
        self._kept_texts = NearDuplicates(expected=texts)
        self._seen: set[str] = set()
        self.kept: list[Prompt] = []
        self._dropped: dict[str, Counter[str]] = {}
        self._named: dict[str, list[dict[str, str]]] = {}
        for prompt in benchmark:
            self._benchmark.add(prompt.id, prompt.text)

    def offer(self, prompt: Prompt) -> bool:
        """Keep ``prompt`` unless it repeats another; whether it was kept."""
        text = normalised(prompt.text)
        if text in self._seen:
            return self.drop(prompt, "duplicate")
        if like := self._benchmark.similar(prompt.text):
            return self.drop(prompt, "near_benchmark", like)
        if like := self._kept_texts.similar(prompt.text):
            return self.drop(prompt, "near_duplicate", like)
        self._seen.add(text)
        self._kept_texts.add(prompt.id, prompt.text)
        self.kept.append(prompt)
        return True

    def drop(self, prompt: Prompt, reason: str, like: str = "") -> bool:
        """Book ``prompt`` as dropped for ``reason``; always False."""
        self._dropped.setdefault(prompt.source, Counter())[reason] += 1
        named = self._named.setdefault(reason, [])
        if len(named) < NAMED:
            named.append({"id": prompt.id, "text": prompt.text, **({"like": like} if like else {})})
        return False

    def ledger(self) -> dict[str, Any]:
        """Counts per source, and the first dropped prompts of each reason by name."""
        kept = Counter(prompt.source for prompt in self.kept)
        sources = sorted({*kept, *self._dropped})
        return {
            "sources": {
                source: {
                    "kept": kept[source],
                    "dropped": dict(sorted(self._dropped.get(source, Counter()).items())),
                }
                for source in sources
            },
            "examples": dict(sorted(self._named.items())),
        }
