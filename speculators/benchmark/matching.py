"""Whether arms answer the same: texts compared prompt by prompt."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from speculators.benchmark.pairs import Pair, Sample
from speculators.benchmark.rounds import PLAIN
from speculators.benchmark.statistics import match_rate


def exact_match(samples: list[Sample], pairs: list[Pair], calm: list[Pair]) -> dict[str, Any]:
    """Share of equal texts: draft against plain of the same round, and plain against itself."""
    by_load: dict[int, list[Sample]] = {}
    for one in samples:
        if one["arm"] == PLAIN:
            by_load.setdefault(one["concurrency"], []).append(one)
    draft = match([(pair.plain, pair.draft) for pair in pairs])
    plain = match([both for loads in by_load.values() for both in pairwise(loads)])
    return {
        "draft_against_plain": draft,
        "draft_against_plain_without_looping": match([(pair.plain, pair.draft) for pair in calm]),
        "plain_against_plain": plain,
        # Plain serving need not repeat itself: 1 is as good as plain against itself.
        "relative": draft["rate"] / plain["rate"] if draft["rate"] is not None and plain["rate"] else None,
    }


def match(comparisons: list[tuple[Sample, Sample]]) -> dict[str, Any]:
    left, right = [], []
    for one, other in comparisons:
        texts = {row["id"]: row["text_sha256"] for row in other["requests"]}
        for row in one["requests"]:
            if row["id"] in texts:
                left.append(row["text_sha256"])
                right.append(texts[row["id"]])
    return {"rate": match_rate(left, right), "compared": len(left)}
