"""The speedup card of a draft: which setting serves fastest at which load, from one benchmark's own requests.

A benchmark with ``depths`` measures the draft with several numbers of proposed tokens, one launch each.
Every request says how long its answer took and in how many steps, and at which length of context: that is all
that the cost model needs.  What was not measured is predicted; how well shows on cells that were held out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from statistics import fmean, median
from typing import Any, NamedTuple

from speculators.benchmark.breakdown import bucket
from speculators.benchmark.checks import completed, same_work
from speculators.benchmark.cost_model import Cell, Measured, Model, fit, held_out
from speculators.benchmark.pairs import Sample, counters_of, pair_up, request_spec
from speculators.benchmark.rounds import DRAFT, FREE_ARMS, PLAIN, depth_of
from speculators.benchmark.setting import Setting, regrets, setting, validated
from speculators.benchmark.stability import warnings
from speculators.errors import RecipeError
from speculators.serving.metrics import pooled

SCHEMA = "speculators/card/v1"
#: Fewer cells leave nothing to hold out.
FEWEST_CELLS = 6


def card(benchmark: Mapping[str, Any]) -> dict[str, Any]:
    """The card of a benchmark document.

    Raises:
        RecipeError: too few settings were measured, they did not do the same work, requests were not counted
            one by one, or no draft was.
    """
    if (kind := benchmark["speculation"]["algorithm"]) in FREE_ARMS:
        # A step in which it proposes nothing is no draft, so nobody counts the steps of a request.
        raise RecipeError(
            f"'{kind}' has no draft, and a card is of one", hint="name a draft's run", rule="no-draft"
        )
    require_same_work(benchmark)
    measured, rates = cells(benchmark), rates_of(benchmark)
    if len(measured) < FEWEST_CELLS or not rates:
        raise RecipeError(
            f"{len(measured)} settings were measured, a card needs {FEWEST_CELLS}",
            hint="measure more: --set benchmark.depths=[1,2] --set benchmark.concurrency=[1,2,4,8]",
            rule="too-few-cells",
        )
    model = Model(rates, fit(measured))
    predicted = {one.cell: one for one in held_out(measured, rates)}
    plain = {one.cell: one.speed for one in measured if not one.cell.tokens}
    context = median(one.cell.context for one in measured)
    batch_sizes = max(one.cell.requests for one in measured)
    chosen = setting(model, batch_sizes, context)
    errors = sorted(abs(one.error) for one in predicted.values())
    return {
        "schema": SCHEMA,
        "rates": list(rates),
        "step_seconds": {name: value for name, value in model.time._asdict().items() if name != "knee"},
        "knee": None if model.time.beyond == 0 else model.time.knee,
        "cells": [
            {
                **one.cell._asdict(),
                "step_seconds": one.seconds,
                "tokens_per_step": one.length,
                "tokens_per_second": one.speed,
                "speedup": one.speed / alone if (alone := plain.get(one.cell._replace(tokens=0))) else None,
                "predicted_speedup": model.speedup(one.cell),
                "held_out_error": predicted[one.cell].error if one.cell in predicted else None,
            }
            for one in measured
        ],
        "predicted": [
            {**cell._asdict(), "speedup": model.speedup(cell)} for cell in _unmeasured(measured, len(rates))
        ],
        "held_out": {"median": median(errors), "worst": errors[-1]} if errors else None,
        "regrets": [one._asdict() for one in regrets(chosen, measured)],
        "context": context,
        "schedule": [list(one) for one in chosen.schedule],
        "off_from": chosen.off_from,
        "speculative_config": chosen.config(),
        "warnings": warnings(benchmark),
    }


def require_same_work(benchmark: Mapping[str, Any]) -> None:
    """Refuse settings that are not timed on the same answers.

    Raises:
        RecipeError: saying which.
    """
    made = {"requests": completed(benchmark)}
    made |= {arm: same_work(pair_up(benchmark["samples"], arm)) for arm in _depths(benchmark) if arm != PLAIN}
    if failed := [f"{name}: {check['detail']}" for name, check in made.items() if check["ok"] is False]:
        raise RecipeError(
            f"the settings of this run cannot be compared: {'; '.join(failed)}",
            hint="measure again, and let the machine do nothing else meanwhile",
            rule="not-comparable",
        )


def schedule_checked(card: Mapping[str, Any]) -> bool | None:
    """Whether vLLM's own function takes the schedule; None where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        return None
    schedule = tuple((first, last, tokens) for first, last, tokens in card["schedule"])
    try:
        return validated(Setting(max(tokens for _, _, tokens in schedule), schedule)) == list(schedule)
    except ValueError:
        return False


class Written(NamedTuple):
    """Of one request after its first token: seconds, steps, tokens, and the mean length of its context."""

    seconds: float
    steps: int
    tokens: int
    context: float


def cells(benchmark: Mapping[str, Any]) -> list[Measured]:
    """The mean step of each setting over its rounds.

    One request at a time tells lengths of context apart; a batch has only their mean.  The context of a load
    is that of all its requests, whatever served them: settings are compared at the same load.
    """
    loads: dict[tuple[int, str | None], dict[int, list[Written]]] = {}
    depths = _depths(benchmark)
    for sample in benchmark["samples"]:
        if sample["arm"] not in depths:
            continue
        for one in _written(sample):
            lengths = bucket(round(one.context)) if sample["concurrency"] == 1 else None
            load = loads.setdefault((sample["concurrency"], lengths), {})
            load.setdefault(depths[sample["arm"]], []).append(one)
    found = []
    for (requests, _), by_depth in loads.items():
        context = fmean(one.context for chosen in by_depth.values() for one in chosen)
        found += [_measured(Cell(depth, requests, context), chosen) for depth, chosen in by_depth.items()]
    return sorted(found)


def _measured(cell: Cell, written: list[Written]) -> Measured:
    steps = sum(one.steps for one in written)
    seconds, tokens = sum(one.seconds for one in written), sum(one.tokens for one in written)
    return Measured(cell, seconds / steps, tokens / steps)


def _unmeasured(measured: list[Measured], deepest: int) -> Iterator[Cell]:
    """At each measured load the numbers of proposed tokens that were not tried there."""
    known = {one.cell for one in measured}
    for cell in sorted({one.cell._replace(tokens=0) for one in measured}, key=lambda cell: cell[1:]):
        others = (cell._replace(tokens=tokens) for tokens in range(1, deepest + 1))
        yield from (one for one in others if one not in known)


def _depths(benchmark: Mapping[str, Any]) -> dict[str, int]:
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
        yield Written((whole - first) / 1000, steps, further, prompt + row["output_tokens"] / 2)


def rates_of(benchmark: Mapping[str, Any]) -> tuple[float, ...]:
    """The rates of each position of the deepest arm; empty where nothing was counted."""
    depths = _depths(benchmark)
    deepest = max(depths.values(), default=0)
    counted = [counters_of(one) for one in benchmark["samples"] if depths.get(one["arm"]) == deepest]
    known = [one for one in counted if one is not None]
    return pooled(known).per_position_rates or () if known else ()
