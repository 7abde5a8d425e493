"""The speedup card of a draft: which setting serves fastest at which load, from one benchmark's own requests.

A benchmark with ``depths`` measures the draft with several numbers of proposed tokens, one launch each.
Every request says how long its answer took and in how many steps, and at which length of context: that is all
that the cost model needs.  What was not measured is predicted; how well shows on cells that were held out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from speculators.benchmark.breakdown import bucket
from speculators.benchmark.cost_model import Cell, Measured, Model, fit, held_out
from speculators.benchmark.pairs import Sample, counters_of, request_spec
from speculators.benchmark.rounds import DRAFT, FREE_ARMS, PLAIN, depth_of
from speculators.benchmark.setting import Setting, regrets, setting, validated
from speculators.errors import RecipeError
from speculators.serving.metrics import pooled

SCHEMA = "speculators/card/v1"
#: Fewer cells leave nothing to hold out.
FEWEST_CELLS = 6


def card(benchmark: Mapping[str, Any]) -> dict[str, Any]:
    """The card of a benchmark document.

    Raises:
        RecipeError: too few settings were measured, requests were not counted one by one, or no draft was.
    """
    if (kind := benchmark["speculation"]["algorithm"]) in FREE_ARMS:
        # A step in which it proposes nothing is no draft, so nobody counts the steps of a request.
        raise RecipeError(
            f"'{kind}' has no draft, and a card is of one", hint="name a draft's run", rule="no-draft"
        )
    measured, rates = cells(benchmark), rates_of(benchmark)
    if len(measured) < FEWEST_CELLS or not rates:
        raise RecipeError(
            f"{len(measured)} settings were measured, a card needs {FEWEST_CELLS}",
            hint="measure more: --set benchmark.depths=[1,2] --set benchmark.concurrency=[1,2,4,8]",
            rule="too-few-cells",
        )
    model = Model(rates, fit(measured))
    predicted = {one.cell: one for one in held_out(measured)}
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
                "speedup": model.speedup(one.cell),
                "held_out_error": predicted[one.cell].error if one.cell in predicted else None,
            }
            for one in measured
        ],
        "held_out": {"median": median(errors), "worst": errors[-1]} if errors else None,
        "regrets": [one._asdict() for one in regrets(model, measured, rates)],
        "context": context,
        "schedule": [list(one) for one in chosen.schedule],
        "off_from": chosen.off_from,
        "speculative_config": chosen.config(),
    }


def schedule_checked(card: Mapping[str, Any]) -> bool | None:
    """Whether vLLM's own function takes the schedule; None where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        return None
    schedule = tuple((first, last, tokens) for first, last, tokens in card["schedule"])
    try:
        return validated(Setting(max(tokens for _, _, tokens in schedule), schedule)) == list(schedule)
    except ValueError:
        return False


def cells(benchmark: Mapping[str, Any]) -> list[Measured]:
    """The mean step of each setting over its rounds.

    One request at a time tells lengths of context apart; a batch has only their mean.
    """
    spans: dict[tuple[int, int, str], list[tuple[float, float, float]]] = {}
    depths = _depths(benchmark)
    for sample in benchmark["samples"]:
        if sample["arm"] not in depths:
            continue
        depth, requests = depths[sample["arm"]], sample["concurrency"]
        for span in _steps(sample):
            lengths = bucket(round(span[2])) if requests == 1 else None
            spans.setdefault((depth, requests, lengths or ""), []).append(span)
    return [_cell(depth, requests, found) for (depth, requests, _), found in sorted(spans.items())]


def _cell(depth: int, requests: int, spans: list[tuple[float, float, float]]) -> Measured:
    steps = sum(count for _, count, _ in spans)
    context = sum(count * length for _, count, length in spans) / steps
    return Measured(Cell(depth, requests, context), sum(seconds for seconds, _, _ in spans) / steps)


def _depths(benchmark: Mapping[str, Any]) -> dict[str, int]:
    """The proposed tokens of every arm that the draft serves, and of plain."""
    known = {PLAIN: 0, DRAFT: benchmark["speculation"]["tokens"]}
    arms = dict.fromkeys(one["arm"] for one in benchmark["samples"])
    found = {arm: known[arm] if arm in known else depth_of(arm) for arm in arms}
    return {arm: depth for arm, depth in found.items() if depth is not None}


def _steps(sample: Sample) -> Iterator[tuple[float, float, float]]:
    """Of each request: seconds after its first token, the steps in them, its mean length of context."""
    for row in sample["requests"]:
        first, whole, prompt = row.get("ttft_ms"), row.get("latency_ms"), row.get("prompt_tokens")
        spec = request_spec(row)
        steps = spec.drafts if spec is not None else row["output_tokens"] - 1
        if sample["arm"] != PLAIN and spec is None:
            continue
        if first is None or whole is None or prompt is None or steps < 1 or whole <= first:
            continue
        yield (whole - first) / 1000, float(steps), prompt + row["output_tokens"] / 2


def rates_of(benchmark: Mapping[str, Any]) -> tuple[float, ...]:
    """The rates of each position of the deepest arm; empty where nothing was counted."""
    depths = _depths(benchmark)
    deepest = max(depths.values(), default=0)
    counted = [counters_of(one) for one in benchmark["samples"] if depths.get(one["arm"]) == deepest]
    known = [one for one in counted if one is not None]
    return pooled(known).per_position_rates or () if known else ()
