"""Acceptance by what was asked: by data set, by group of prompts, by prompt length, by prompt.

One figure over all prompts hides that a draft is good at code and bad at poems, or falls off where contexts
are longer than those it was trained on.  Counts come from the engine, request by request; of a prompt they
are pooled over rounds and loads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from speculators.benchmark.pairs import Sample, request_spec
from speculators.datagen.prompt_sets import RANDOM
from speculators.serving.metrics import SpecCounters, pooled

#: The widest of the shortest bucket; each further one is twice as wide.
SHORTEST = 64


class Asked(NamedTuple):
    """One prompt with what was counted for it; ``tokens``: its own, None where that was not reported."""

    id: str
    group: str | None
    dataset: str | None
    tokens: int | None
    counters: SpecCounters


def breakdown(samples: Iterable[Sample]) -> dict[str, list[dict[str, Any]]]:
    """Acceptance of one arm's samples, broken down; every list is empty where requests were not counted."""
    asked = list(_asked(samples))
    return {
        "by_dataset": _by(asked, lambda one: one.dataset, sorted),
        "by_group": _by(asked, lambda one: one.group, sorted),
        "by_prompt_length": _by(asked, lambda one: bucket(one.tokens), _by_length),
        "by_request": [
            {"id": one.id, "group": one.group, "prompt_tokens": one.tokens, **_figures([one])}
            for one in asked
        ],
    }


def asked_random(samples: Iterable[Sample]) -> bool:
    """Whether the prompts were random text: what was accepted then says nothing of real ones."""
    return any(row.get("dataset") == RANDOM for sample in samples for row in sample["requests"])


def bucket(tokens: int | None) -> str | None:
    """The span of lengths that ``tokens`` lies in, as "128-255"."""
    if tokens is None:
        return None
    low, high = 0, SHORTEST
    while tokens >= high:
        low, high = high, 2 * high
    return f"{low}-{high - 1}"


def _asked(samples: Iterable[Sample]) -> Iterator[Asked]:
    counted: dict[str, list[SpecCounters]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for sample in samples:
        for row in sample["requests"]:
            if (found := request_spec(row)) is not None:
                counted.setdefault(row["id"], []).append(found)
                rows[row["id"]] = row
    for name, counters in counted.items():
        row = rows[name]
        yield Asked(name, row.get("group"), row.get("dataset"), row.get("prompt_tokens"), pooled(counters))


def _by_length(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: int(name.partition("-")[0]))


def _by(
    asked: Sequence[Asked],
    name: Callable[[Asked], str | None],
    order: Callable[[Iterable[str]], list[str]],
) -> list[dict[str, Any]]:
    groups: dict[str, list[Asked]] = {}
    for one in asked:
        if (found := name(one)) is not None:
            groups.setdefault(found, []).append(one)
    return [
        {"name": group, "prompts": len(groups[group]), **_figures(groups[group])} for group in order(groups)
    ]


def _figures(asked: Sequence[Asked]) -> dict[str, Any]:
    total = pooled([one.counters for one in asked])
    rates = total.per_position_rates
    return {
        "acceptance_length": total.acceptance_length,
        "per_position": None if rates is None else list(rates),
        "drafts": total.drafts,
        "accepted": total.accepted,
    }
