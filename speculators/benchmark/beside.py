"""The arms beside plain serving and the draft: free ones, other depths, a base, other conditions.

Each has figures and checks of its own, so that a broken one takes nothing from the draft's verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from speculators.benchmark.acceptance import difference, figures, served_by_load
from speculators.benchmark.checks import capture_sizes, completed, possible, same_work
from speculators.benchmark.matching import match
from speculators.benchmark.ngram import proposals
from speculators.benchmark.pairs import Pair, all_steps, base_pairs, counters_of, pair_up
from speculators.benchmark.rounds import BASE, BASE_PLAIN, FREE_ARMS, QUANTISED, SAMPLED, Condition, depth_of
from speculators.benchmark.speed import overall, ratio, round_speedup, speed_at


def extra_arms(benchmark: dict[str, Any]) -> list[str]:
    """The arms that needed no training, in the order they were first measured."""
    return [arm for arm in dict.fromkeys(one["arm"] for one in benchmark["samples"]) if arm in FREE_ARMS]


def free_arm(
    benchmark: dict[str, Any], drafts: list[Pair], arm: str, replay: dict[str, Any] | None
) -> dict[str, Any]:
    """An arm that needed no training; prompt lookup is checked token by token."""
    found = _arm(benchmark, drafts, arm)
    if arm == "ngram":
        samples = [one for one in benchmark["samples"] if one["arm"] == arm]
        found["checks"].append(proposals(samples, replay or {}))
    return found


def depths(benchmark: dict[str, Any], drafts: list[Pair]) -> list[dict[str, Any]]:
    """The draft with other numbers of proposed tokens, fewest first."""
    arms = {one["arm"] for one in benchmark["samples"]}
    found = sorted((tokens, arm) for arm in arms if (tokens := depth_of(arm)) is not None)
    return [{"tokens": tokens, **_arm(benchmark, drafts, arm)} for tokens, arm in found]


def base_arm(benchmark: dict[str, Any], drafts: list[Pair], base: dict[str, Any]) -> dict[str, Any]:
    """The arm that the draft is gated against, with checks of its own: a gate reads them.

    ``own_plain``: whether its speedup is over plain serving with engine settings of its own.
    """
    found = _arm(benchmark, drafts, BASE, base)
    return {**base, **found, "own_plain": any(one["arm"] == BASE_PLAIN for one in benchmark["samples"])}


def _arm(
    benchmark: dict[str, Any], drafts: list[Pair], arm: str, base: dict[str, Any] | None = None
) -> dict[str, Any]:
    """An arm beside the draft: its own figures, and those of the draft over it.

    ``drafts``: the draft arm's pairs; ``base``: how the arm is served where it is the base.
    ``draft_over_it``: a ratio of throughputs, but of speedups where the arm has a plain arm of its own.
    ``tokens_per_step`` counts the steps without a proposal as well, so that it can be held against a draft's
    acceptance length, and no speedup exceeds it.
    """
    args, tokens = benchmark.get("engine_args") or {}, depth_of(arm) or benchmark["speculation"]["tokens"]
    pairs = pair_up(benchmark["samples"], arm)
    if base is not None:
        args, tokens = base["engine"]["args"], base["speculation"]["tokens"]
        pairs = base_pairs(benchmark["samples"])
    concurrencies = benchmark["benchmark"]["concurrency"]
    speed = [{"concurrency": one, **speed_at(pairs, one, arm)} for one in concurrencies]
    of_draft, of_arm = (
        {pair.round: round_speedup(side, pair.round) for pair in side} for side in (drafts, pairs)
    )
    over = [mine / theirs if (mine := of_draft[r]) and (theirs := of_arm.get(r)) else None for r in of_draft]
    return {
        "arm": arm,
        "speed": speed,
        "overall_speedup": overall(pairs),
        "draft_over_it": ratio(over),
        "acceptance": figures([counters_of(pair.draft) for pair in pairs]),
        "tokens_per_step": (figures([all_steps(pair.draft) for pair in pairs]) or {}).get(
            "acceptance_length"
        ),
        "exact_match": match([(pair.plain, pair.draft) for pair in pairs]),
        "checks": [
            completed(benchmark, (arm,) if base is None else (BASE, BASE_PLAIN)),
            same_work(pairs),
            possible(speed, served_by_load(pairs, all_steps)),
            capture_sizes(benchmark, args, tokens),
        ],
    }


def quantised(benchmark: dict[str, Any]) -> dict[str, Any] | None:
    """The draft on a quantised copy of its verifier, over that copy alone; None if there was none.

    ``quantising``: the copy alone over the verifier alone; ``both``: copy and draft over the verifier alone.
    Those two compare different answers, so they say what is faster, not that the same is said faster.
    """
    found = under(benchmark, QUANTISED)
    return found and {**found, "quantising": found["alone"]}


def under(
    benchmark: dict[str, Any], condition: Condition, elsewhere: Sequence[Pair] = ()
) -> dict[str, Any] | None:
    """The draft over plain serving under ``condition``; None if that was not measured.

    ``elsewhere``: the draft's pairs outside of it.  ``alone``: plain serving under the condition over plain
    serving; ``both``: the draft under it over plain serving; ``acceptance_change``: of its length, relative.
    """
    pairs = pair_up(benchmark["samples"], condition.draft, condition.plain)
    if not pairs:
        return None
    concurrencies = benchmark["benchmark"]["concurrency"]
    speed = [{"concurrency": one, **speed_at(pairs, one)} for one in concurrencies]
    here, there = (figures([counters_of(pair.draft) for pair in side]) for side in (pairs, elsewhere))
    drawn = condition == SAMPLED  # answers that are drawn differ in length and text, whatever the draft does
    return {
        "speed": speed,
        "overall_speedup": overall(pairs),
        "alone": overall(pair_up(benchmark["samples"], condition.plain)),
        "both": overall(pair_up(benchmark["samples"], condition.draft)),
        "acceptance": here,
        "acceptance_change": difference(there, here),
        "exact_match": None if drawn else match([(pair.plain, pair.draft) for pair in pairs]),
        "checks": [
            completed(benchmark, (condition.plain, condition.draft)),
            *([] if drawn else [same_work(pairs)]),
            possible(speed, served_by_load(pairs)),
        ],
    }
