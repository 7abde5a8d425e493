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
from speculators.benchmark.cost_model import (
    STEPS_FOR_RATES,
    Cell,
    Load,
    Measured,
    Model,
    acceptance,
    fit,
    held_out,
)
from speculators.benchmark.pairs import Sample, pair_up, request_spec
from speculators.benchmark.rounds import DRAFT, FREE_ARMS, PLAIN, depth_of
from speculators.benchmark.setting import SCHEDULE, Setting, regrets, setting, validated
from speculators.benchmark.stability import warnings
from speculators.errors import RecipeError
from speculators.serving.metrics import SpecCounters, pooled

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
    measured, together = cells(benchmark), cells(benchmark, apart=False)
    accepted = acceptance(measured)
    if len(measured) < FEWEST_CELLS or not accepted.pooled:
        raise RecipeError(
            f"{len(measured)} settings were measured, a card needs {FEWEST_CELLS}",
            hint=f"measure more: {sweeping(benchmark['speculation']['tokens'])}",
            rule="too-few-cells",
        )
    model = Model(accepted, fit(measured))
    predicted = {one.cell: one for one in held_out(measured)}
    plain = {one.cell: one.speed for one in measured if not one.cell.tokens}
    context, batch_sizes = together[0].cell.context, max(one.cell.requests for one in measured)
    chosen = setting(model, batch_sizes, context, together)
    known = sorted({one.cell: one for one in (*measured, *together)}.values())
    errors = sorted(abs(one.error) for one in predicted.values())
    return {
        "schema": SCHEMA,
        "rates": list(accepted.pooled),
        "rates_by_load": [
            {"requests": requests, "context": length, "rates": list(rates)}
            for (requests, length), rates in sorted(accepted.by_load.items())
        ],
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
            {**cell._asdict(), "speedup": model.speedup(cell)}
            for cell in _unmeasured(measured, model.deepest)
        ],
        "held_out": {"median": median(errors), "worst": errors[-1]} if errors else None,
        "regrets": [one._asdict() for one in regrets(chosen, known)],
        "model_regrets": [one._asdict() for one in regrets(setting(model, batch_sizes, context), together)],
        "context": context,
        **_document(chosen),
        "by_context": [
            {"context": length, **_document(setting(model, batch_sizes, length, _at(length, measured)))}
            for length in _contexts(measured)
        ],
        "warnings": warnings(benchmark),
    }


def sweeping(tokens: int) -> str:
    """The options that make a benchmark measure what a card of a draft of ``tokens`` is made from."""
    depths = ",".join(str(one) for one in range(1, tokens))
    return f"--set benchmark.depths=[{depths}] --set benchmark.concurrency=[1,2,4,8]"


def _document(chosen: Setting) -> dict[str, Any]:
    return {
        "schedule": [list(one) for one in chosen.schedule],
        "off_from": chosen.off_from,
        "alone": chosen.alone._asdict() if chosen.alone else None,
        "speculative_config": chosen.config(),
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
    """Whether vLLM's own function takes the schedule; None where there is none, or no vLLM."""
    if SCHEDULE not in card["speculative_config"] or importlib.util.find_spec("vllm") is None:
        return None
    schedule = tuple((first, last, tokens) for first, last, tokens in card["schedule"])
    try:
        return validated(Setting(max(tokens for _, _, tokens in schedule), schedule)) == list(schedule)
    except ValueError:
        return False


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
    depths = _depths(benchmark)
    samples = [one for one in benchmark["samples"] if one["arm"] in depths]
    asked = [(one["concurrency"], depths[one["arm"]], row) for one in samples for row in _written(one)]
    numbers = _lengths([(depth, row) for requests, depth, row in asked if requests == 1])
    loads: dict[tuple[int, int | None], dict[int, list[Written]]] = {}
    contexts: dict[int | None, list[float]] = {}
    for requests, depth, row in asked:
        number = numbers.get(row.span)
        load = loads.setdefault((requests, number if apart and requests == 1 else None), {})
        load.setdefault(depth, []).append(row)
        for one in {number, None}:
            contexts.setdefault(one, []).append(row.context)
    found = []
    for (requests, number), by_depth in loads.items():
        context = fmean(contexts[number])
        found += [_measured(Cell(depth, requests, context), chosen) for depth, chosen in by_depth.items()]
    return sorted(found)


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


def _contexts(measured: list[Measured]) -> list[float]:
    """The lengths of context that were told apart; none where all prompts are of one."""
    found = sorted({one.cell.context for one in measured if one.cell.requests == 1})
    return found if len(found) > 1 else []


def _at(context: float, measured: list[Measured]) -> list[Measured]:
    """What was measured of one length of context: itself at one request, in a batch it among all others."""
    return [one for one in measured if one.cell.requests > 1 or one.cell.context == context]


def _unmeasured(measured: list[Measured], deepest: int) -> Iterator[Cell]:
    """The numbers of proposed tokens that were not tried at a load, and each length of context in a batch."""
    known = {one.cell for one in measured}
    loads: set[Load] = {cell.load for cell in known}
    loads |= {(requests, length) for requests, _ in loads for length in _contexts(measured)}
    for load in sorted(loads):
        others = (Cell(tokens, *load) for tokens in range(1, deepest + 1))
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
        yield Written((whole - first) / 1000, steps, further, prompt + row["output_tokens"] / 2, spec)
