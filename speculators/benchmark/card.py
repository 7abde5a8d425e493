"""The speedup card of a draft: which setting serves fastest at which load, from one benchmark's own requests.

A benchmark with ``depths`` measures the draft with several numbers of proposed tokens, one launch each.
What its requests say of each setting (``cells``) is all that the cost model needs.  What was not measured is
predicted; how well shows on cells that were held out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from speculators.benchmark.cells import cells, cells_by_round, depths_of
from speculators.benchmark.checks import completed, same_work
from speculators.benchmark.cost_model import Cell, Load, Measured, Model, acceptance, fit, held_out
from speculators.benchmark.pairs import pair_up
from speculators.benchmark.rounds import FREE_ARMS, PLAIN
from speculators.benchmark.setting import (
    SCHEDULE,
    Corrections,
    Setting,
    corrections,
    regrets,
    repeated,
    setting,
    validated,
)
from speculators.benchmark.stability import warnings
from speculators.errors import RecipeError

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
    model = _model(measured, benchmark["speculation"]["tokens"])
    held = held_out(measured)
    context, batch_sizes = together[0].cell.context, max(one.cell.requests for one in measured)
    rounds = cells_by_round(benchmark)
    agreed = repeated(model, cells_by_round(benchmark, apart=False))
    chosen = setting(model, batch_sizes, context, corrections(agreed))
    known = sorted({one.cell: one for one in (*measured, *together)}.values())
    errors = sorted(abs(one.error) for one in held)
    return {
        "schema": SCHEMA,
        **_of_model(model),
        "cells": _rows(measured, model, {one.cell: one.error for one in held}),
        "predicted": [
            {**cell._asdict(), "speedup": model.speedup(cell)}
            for cell in _unmeasured(measured, model.deepest)
        ],
        "held_out": {"median": median(errors), "worst": errors[-1]} if errors else None,
        "regrets": [one._asdict() for one in regrets(chosen, known)],
        "model_regrets": [one._asdict() for one in regrets(setting(model, batch_sizes, context), together)],
        "rounds": len(rounds),
        "repeated": [{"requests": requests, "share": one.share} for requests, one in agreed.items()],
        "judged": _judged(benchmark, batch_sizes, context, together),
        "context": context,
        **_document(chosen),
        "by_context": [
            {"context": length, **_document(setting(model, batch_sizes, length, _at(length, model, rounds)))}
            for length in _contexts(measured)
        ],
        "warnings": warnings(benchmark),
    }


def _model(measured: list[Measured], tokens: int) -> Model:
    """``tokens``: that the draft proposes, to say what measures more.

    Raises:
        RecipeError: too few settings to fit one.
    """
    if (model := _fitted(measured)) is None:
        raise RecipeError(
            f"{len(measured)} settings were measured, a card needs {FEWEST_CELLS}",
            hint=f"measure more: {sweeping(tokens)}",
            rule="too-few-cells",
        )
    return model


def _fitted(measured: list[Measured]) -> Model | None:
    """None where too few settings were measured, or nothing of them was counted."""
    accepted = acceptance(measured)
    if len(measured) < FEWEST_CELLS or not accepted.pooled:
        return None
    return Model(accepted, fit(measured))


def _of_model(model: Model) -> dict[str, Any]:
    """What was fitted: the rates of acceptance, and the parts of a step's time."""
    parts = model.time._asdict()
    knee = parts.pop("knee")
    return {
        "rates": list(model.acceptance.pooled),
        "rates_by_load": [
            {"requests": requests, "context": length, "rates": list(rates)}
            for (requests, length), rates in sorted(model.acceptance.by_load.items())
        ],
        "step_seconds": parts,
        "knee": knee if parts["beyond"] else None,
    }


def _judged(
    benchmark: Mapping[str, Any], batch_sizes: int, context: float, together: Sequence[Measured]
) -> list[dict[str, Any]]:
    """By load what the setting loses that the other rounds would choose, in the mean of the rounds left out.

    A setting is the best of the measurements that chose it, whatever their noise: only other rounds tell what
    that is worth.  Against the fastest K of all rounds; empty where a round is all there is.
    """
    by_speed = sorted(together, key=lambda one: one.speed)
    best = {one.cell.requests: one.cell.tokens for one in by_speed}  # the fastest comes last
    losses: dict[int, list[float]] = {}
    samples = benchmark["samples"]
    for left_out in {one["round"] for one in samples}:
        judge, others = (
            {**benchmark, "samples": [one for one in samples if (one["round"] == left_out) is apart]}
            for apart in (True, False)
        )
        if (model := _fitted(cells(others))) is None:
            continue
        agreed = repeated(model, cells_by_round(others, apart=False))
        chosen = setting(model, batch_sizes, context, corrections(agreed))
        seen = {(one.cell.requests, one.cell.tokens): one.speed for one in cells(judge, apart=False)}
        for requests, fastest in best.items():
            ours, theirs = (seen.get((requests, tokens)) for tokens in (chosen.at(requests), fastest))
            if ours and theirs:
                losses.setdefault(requests, []).append(1 - ours / theirs)
    return [{"requests": requests, "loss": fmean(found)} for requests, found in sorted(losses.items())]


def _rows(measured: list[Measured], model: Model, errors: Mapping[Cell, float]) -> list[dict[str, Any]]:
    """One row a measured cell; ``errors``: of its prediction by a model that had not seen it."""
    plain = {one.cell: one.speed for one in measured if not one.cell.tokens}
    return [
        {
            **one.cell._asdict(),
            "step_seconds": one.seconds,
            "tokens_per_step": one.length,
            "tokens_per_second": one.speed,
            "speedup": one.speed / alone if (alone := plain.get(one.cell._replace(tokens=0))) else None,
            "predicted_speedup": model.speedup(one.cell),
            "held_out_error": errors.get(one.cell),
        }
        for one in measured
    ]


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
    arms = depths_of(benchmark)
    made = {"requests": completed(benchmark, arms)}
    drafted = (arm for arm in arms if arm != PLAIN)
    made |= {arm: same_work(pair_up(benchmark["samples"], arm)) for arm in drafted}
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


def _contexts(measured: list[Measured]) -> list[float]:
    """The lengths of context that were told apart; none where all prompts are of one."""
    found = sorted({one.cell.context for one in measured if one.cell.requests == 1})
    return found if len(found) > 1 else []


def _at(context: float, model: Model, rounds: list[list[Measured]]) -> Corrections:
    """Of one length of context: itself at one request at a time, in a batch it among all others."""
    chosen = [
        [one for one in cells if one.cell.requests > 1 or one.cell.context == context] for cells in rounds
    ]
    return corrections(repeated(model, chosen))


def _unmeasured(measured: list[Measured], deepest: int) -> Iterator[Cell]:
    """The numbers of proposed tokens that were not tried at a load, and each length of context in a batch."""
    known = {one.cell for one in measured}
    loads: set[Load] = {cell.load for cell in known}
    loads |= {(requests, length) for requests, _ in loads for length in _contexts(measured)}
    for load in sorted(loads):
        others = (Cell(tokens, *load) for tokens in range(1, deepest + 1))
        yield from (one for one in others if one not in known)
