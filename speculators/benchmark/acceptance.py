"""How much of what an arm proposed was accepted: as served, and as the replay predicted it.

Nothing here needs scipy: where a draft is replayed there may be none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from speculators.benchmark.breakdown import breakdown
from speculators.benchmark.pairs import Pair, Sample, counters_of, pair_up, request_counters
from speculators.benchmark.statistics import relative_difference
from speculators.serving.metrics import SpecCounters, pooled


def acceptance(benchmark: dict[str, Any], replay: dict[str, Any] | None) -> dict[str, Any]:
    """The part of the summary that needs no statistics: where a draft is replayed there may be no scipy."""
    pairs = pair_up(benchmark["samples"])
    return acceptance_of(pairs, [pair.without_looping() for pair in pairs], replay)


def acceptance_of(pairs: list[Pair], calm: list[Pair], replay: dict[str, Any] | None) -> dict[str, Any]:
    """Served (from the engine's counters), predicted (from the replay), and their relative difference."""
    served = figures([counters_of(pair.draft) for pair in pairs])
    served_calm = figures([request_counters(pair.draft) for pair in calm])
    predicted = (replay or {}).get("all")
    predicted_calm = (replay or {}).get("without_looping")
    return {
        "served": served,
        "served_without_looping": served_calm,
        "served_by_concurrency": served_by_load(pairs),
        **breakdown([pair.draft for pair in pairs]),
        "predicted": predicted,
        "predicted_without_looping": predicted_calm,
        "not_predicted": (replay or {}).get("not_predicted", "" if predicted else "the replay did not run"),
        "probe": (replay or {}).get("probe"),
        "not_probed": (replay or {}).get("not_probed", ""),
        "difference": difference(served, predicted),
        "difference_without_looping": difference(served_calm, predicted_calm),
    }


def served_by_load(
    pairs: list[Pair], counting: Callable[[Sample], SpecCounters | None] = counters_of
) -> list[dict[str, Any]]:
    """The speculating arm's acceptance at each concurrency, pooled over the rounds."""
    found: dict[int, list[SpecCounters | None]] = {}
    for pair in pairs:
        found.setdefault(pair.concurrency, []).append(counting(pair.draft))
    return [{"concurrency": one, **(figures(counted) or {})} for one, counted in found.items()]


def figures(counters: list[SpecCounters | None]) -> dict[str, Any] | None:
    """Pooled acceptance of several loads; None when one of them was not counted or nothing was drafted."""
    known = [one for one in counters if one is not None]
    if not known or len(known) < len(counters):
        return None
    total = pooled(known)
    if not total.drafts:
        return None
    return {
        "acceptance_length": total.acceptance_length,
        "per_position": list(total.per_position_rates or ()),
        "drafts": total.drafts,
        "accepted": total.accepted,
    }


def difference(served: dict[str, Any] | None, predicted: dict[str, Any] | None) -> float | None:
    """(predicted - served) / served acceptance length."""
    if not served or not predicted or predicted["acceptance_length"] is None:
        return None
    return relative_difference(predicted["acceptance_length"], served["acceptance_length"])
