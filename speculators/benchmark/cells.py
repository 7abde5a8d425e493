"""What a benchmark measured of each setting: the step, from its requests.

A setting is a number of proposed tokens, of requests at a time, and a length of context
(``cost_model.Cell``).  Every request says how long its answer took, in how many steps, and how long its
context was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any, NamedTuple

from speculators.benchmark.breakdown import bucket
from speculators.benchmark.cost_model import STEPS_FOR_RATES, Cell, Measured
from speculators.benchmark.pairs import Sample, request_spec
from speculators.benchmark.rounds import DRAFT, PLAIN, depth_of
from speculators.serving.metrics import SpecCounters, pooled


class Written(NamedTuple):
    """Of one request after its first token: seconds, steps, tokens, and the mean length of its context.

    ``counted``: None in plain serving.
    """

    seconds: float
    steps: int
    tokens: int
    context: float
    counted: SpecCounters | None

    @property
    def span(self) -> str:
        """Of lengths of context."""
        return bucket(round(self.context)) or ""


def cells(benchmark: Mapping[str, Any], *, apart: bool = True) -> list[Measured]:
    """The mean step of each setting over its rounds.

    ``apart``: one request at a time tells lengths of context apart.  In a batch every step waits for all its
    requests, short and long, so a request's time there says nothing of its own length.  A context is the mean
    of all requests of its span, whatever served them: all loads ask the same prompts.
    """
    grouped = _grouped(benchmark, apart=apart)
    return [
        _measured(cell, [row for rows in by_round.values() for row in rows]) for cell, by_round in grouped
    ]


def cells_by_round(benchmark: Mapping[str, Any], *, apart: bool = True) -> list[list[Measured]]:
    """The mean step of each setting in each round, of the same settings and contexts as ``cells``."""
    grouped = _grouped(benchmark, apart=apart)
    rounds = sorted({number for _, by_round in grouped for number in by_round})
    return [
        [_measured(cell, by_round[number]) for cell, by_round in grouped if number in by_round]
        for number in rounds
    ]


def _grouped(benchmark: Mapping[str, Any], *, apart: bool) -> list[tuple[Cell, dict[int, list[Written]]]]:
    """The requests of each setting, by round."""
    depths = depths_of(benchmark)
    samples = [one for one in benchmark["samples"] if one["arm"] in depths]
    asked = [(one, depths[one["arm"]], row) for one in samples for row in _written(one)]
    numbers = _lengths([(depth, row) for one, depth, row in asked if one["concurrency"] == 1])
    groups: dict[tuple[int, int | None, int], dict[int, list[Written]]] = {}
    contexts: dict[int | None, list[float]] = {}
    for sample, depth, row in asked:
        requests, number = sample["concurrency"], numbers.get(row.span)
        group = groups.setdefault((requests, number if apart and requests == 1 else None, depth), {})
        group.setdefault(sample["round"], []).append(row)
        for one in {number, None}:
            contexts.setdefault(one, []).append(row.context)
    means = {number: fmean(found) for number, found in contexts.items()}
    return sorted(
        ((Cell(depth, requests, means[number]), rows) for (requests, number, depth), rows in groups.items()),
        key=lambda one: one[0],
    )


def _lengths(alone: list[tuple[int, Written]]) -> dict[str, int]:
    """By span of context its place among those told apart.

    A span with too few steps of the deepest K is its few prompts and no length: it joins the next longer one.
    """
    deepest = max((depth for depth, _ in alone), default=0)
    steps = dict.fromkeys(
        sorted((row.span for _, row in alone), key=lambda span: int(span.partition("-")[0])), 0
    )
    for depth, row in alone:
        steps[row.span] += row.steps if depth == deepest else 0
    places, place, total = {}, 0, 0
    for span, count in steps.items():
        places[span], total = place, total + count
        if total >= STEPS_FOR_RATES:
            place, total = place + 1, 0
    return {span: min(one, max(place - 1, 0)) for span, one in places.items()}


def _measured(cell: Cell, written: list[Written]) -> Measured:
    steps = sum(one.steps for one in written)
    seconds, tokens = sum(one.seconds for one in written), sum(one.tokens for one in written)
    counted = [one.counted for one in written if one.counted is not None]
    return Measured(cell, seconds / steps, tokens / steps, pooled(counted) if counted else None)


def depths_of(benchmark: Mapping[str, Any]) -> dict[str, int]:
    """The proposed tokens of every arm that the draft serves, and of plain."""
    known = {PLAIN: 0, DRAFT: benchmark["speculation"]["tokens"]}
    arms = dict.fromkeys(one["arm"] for one in benchmark["samples"])
    found = {arm: known[arm] if arm in known else depth_of(arm) for arm in arms}
    return {arm: depth for arm, depth in found.items() if depth is not None}


def _written(sample: Sample) -> Iterator[Written]:
    """What is known of each request of a load."""
    for row in sample["requests"]:
        first, whole, prompt = row.get("ttft_ms"), row.get("latency_ms"), row.get("prompt_tokens")
        spec, further = request_spec(row), row["output_tokens"] - 1
        steps = spec.drafts if spec is not None else further
        if sample["arm"] != PLAIN and spec is None:
            continue
        if first is None or whole is None or prompt is None or steps < 1 or whole <= first:
            continue
        yield Written((whole - first) / 1000, steps, further, prompt + row["output_tokens"] / 2, spec)
