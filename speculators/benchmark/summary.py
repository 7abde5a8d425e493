"""From the benchmark document to the figures a reader wants, each with what it rests on.

Everything is computed from the samples; a figure that cannot be computed is None and is reported as
not measured, never filled in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from speculators.benchmark.breakdown import asked_random, breakdown
from speculators.benchmark.checks import capture_sizes, implausible, possible, run_checks, same_work
from speculators.benchmark.load import mean_latencies
from speculators.benchmark.ngram import proposals
from speculators.benchmark.pairs import Pair, Sample, all_steps, counters_of, pair_up, request_counters
from speculators.benchmark.profiles import profiles
from speculators.benchmark.rounds import (
    ARMS,
    BASE,
    CACHED,
    DRAFT,
    FREE_ARMS,
    PLAIN,
    QUANTISED,
    SAMPLED,
    Condition,
    depth_of,
)
from speculators.benchmark.service import service
from speculators.benchmark.stability import warnings
from speculators.benchmark.statistics import geometric_mean, match_rate, mean_ratio, relative_difference
from speculators.serving.metrics import SpecCounters, pooled


def summarise(benchmark: dict[str, Any], replay: dict[str, Any] | None = None) -> dict[str, Any]:
    """All figures of one benchmark; ``replay`` is the document of the stage of that name."""
    pairs = pair_up(benchmark["samples"])
    calm = [pair.without_looping() for pair in pairs]
    concurrencies = benchmark["benchmark"]["concurrency"]
    summary: dict[str, Any] = {
        "rounds": benchmark["benchmark"]["rounds"],
        "requests": benchmark["benchmark"]["requests"],
        "max_tokens": benchmark["benchmark"]["max_tokens"],
        "speculation": benchmark["speculation"],
        "speed": [
            {
                "concurrency": concurrency,
                **_speed(pairs, concurrency),
                "service": _services(benchmark, concurrency),
                "looping": sorted({name for pair in _at(pairs, concurrency) for name in pair.looping}),
                "without_looping": _speed(calm, concurrency),
            }
            for concurrency in concurrencies
        ],
        "overall_speedup": _overall(pairs),
        "overall_speedup_without_looping": _overall(calm),
        "acceptance": _acceptance(pairs, calm, replay),
        "exact_match": _exact_match(benchmark["samples"], pairs, calm),
        "outputs": _outputs(benchmark),
        "extra_arms": [_free_arm(benchmark, pairs, arm, replay) for arm in extra_arms(benchmark)],
        "depths": _depths(benchmark, pairs),
        "base": _base(benchmark, pairs, found) if (found := benchmark.get("base")) else None,
        "quantised": _quantised(benchmark),
        "cached": _under(benchmark, CACHED, pairs),
        "sampled": _under(benchmark, SAMPLED, pairs),
        "sampling": benchmark.get("sampling") or {},
        "profiles": profiles(benchmark),
        "left_out": benchmark.get("left_out", {}),
        "random_prompts": asked_random(benchmark["samples"]),
        "warnings": warnings(benchmark),
    }
    summary["breaks_even"] = _breaks_even(summary["speed"], _served(pairs, all_steps))
    summary["warnings"] += implausible(summary["speed"], summary["acceptance"]["served_by_concurrency"])
    return summary | {"checks": run_checks(benchmark, pairs, summary)}


def extra_arms(benchmark: dict[str, Any]) -> list[str]:
    """The arms that needed no training, in the order they were first measured."""
    return [arm for arm in dict.fromkeys(one["arm"] for one in benchmark["samples"]) if arm in FREE_ARMS]


def _free_arm(
    benchmark: dict[str, Any], drafts: list[Pair], arm: str, replay: dict[str, Any] | None
) -> dict[str, Any]:
    """An arm that needed no training; prompt lookup is checked token by token."""
    found = _extra_arm(benchmark, drafts, arm)
    if arm == "ngram":
        samples = [one for one in benchmark["samples"] if one["arm"] == arm]
        found["checks"].append(proposals(samples, replay or {}))
    return found


def _depths(benchmark: dict[str, Any], drafts: list[Pair]) -> list[dict[str, Any]]:
    """The draft with other numbers of proposed tokens, fewest first."""
    arms = {one["arm"] for one in benchmark["samples"]}
    found = sorted((tokens, arm) for arm in arms if (tokens := depth_of(arm)) is not None)
    return [{"tokens": tokens, **_extra_arm(benchmark, drafts, arm)} for tokens, arm in found]


def _base(benchmark: dict[str, Any], drafts: list[Pair], base: dict[str, Any]) -> dict[str, Any]:
    """The arm that the draft is gated against, with checks of its own: a gate reads them."""
    found = _extra_arm(benchmark, drafts, BASE)
    args, tokens = base["engine"]["args"], base["speculation"]["tokens"]
    found["checks"].append(capture_sizes(benchmark, args, tokens))
    return {**base, **found}


def _extra_arm(benchmark: dict[str, Any], drafts: list[Pair], arm: str) -> dict[str, Any]:
    """An arm beside the draft: its own figures, and those of the draft over it.

    ``drafts``: the draft arm's pairs.  ``tokens_per_step`` counts the steps without a proposal as well, so
    that it can be held against a draft's acceptance length, and no speedup exceeds it.
    """
    pairs = pair_up(benchmark["samples"], arm)
    concurrencies = benchmark["benchmark"]["concurrency"]
    speed = [{"concurrency": one, **_speed(pairs, one, arm)} for one in concurrencies]
    of_draft, of_arm = (
        {pair.round: _round_speedup(side, pair.round) for pair in side} for side in (drafts, pairs)
    )
    over = [mine / theirs if (mine := of_draft[r]) and (theirs := of_arm.get(r)) else None for r in of_draft]
    return {
        "arm": arm,
        "speed": speed,
        "overall_speedup": _overall(pairs),
        "draft_over_it": _ratio(over),
        "acceptance": _figures([counters_of(pair.draft) for pair in pairs]),
        "tokens_per_step": (_figures([all_steps(pair.draft) for pair in pairs]) or {}).get(
            "acceptance_length"
        ),
        "exact_match": _match([(pair.plain, pair.draft) for pair in pairs]),
        "checks": [same_work(pairs), possible(speed, _served(pairs, all_steps))],
    }


def _quantised(benchmark: dict[str, Any]) -> dict[str, Any] | None:
    """The draft on a quantised copy of its verifier, over that copy alone; None if there was none.

    ``quantising``: the copy alone over the verifier alone; ``both``: copy and draft over the verifier alone.
    Those two compare different answers, so they say what is faster, not that the same is said faster.
    """
    found = _under(benchmark, QUANTISED)
    return found and {**found, "quantising": found["alone"]}


def _under(
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
    speed = [{"concurrency": one, **_speed(pairs, one)} for one in concurrencies]
    here, there = (_figures([counters_of(pair.draft) for pair in side]) for side in (pairs, elsewhere))
    drawn = condition == SAMPLED  # answers that are drawn differ in length and text, whatever the draft does
    return {
        "speed": speed,
        "overall_speedup": _overall(pairs),
        "alone": _overall(pair_up(benchmark["samples"], condition.plain)),
        "both": _overall(pair_up(benchmark["samples"], condition.draft)),
        "acceptance": here,
        "acceptance_change": _difference(there, here),
        "exact_match": None if drawn else _match([(pair.plain, pair.draft) for pair in pairs]),
        "checks": [*([] if drawn else [same_work(pairs)]), possible(speed, _served(pairs))],
    }


def _at(pairs: list[Pair], concurrency: int) -> list[Pair]:
    return [pair for pair in pairs if pair.concurrency == concurrency]


def _overall(pairs: list[Pair]) -> dict[str, Any] | None:
    """The speedup over all concurrencies: a geometric mean within each round, then over rounds."""
    rounds = sorted({pair.round for pair in pairs})
    return _ratio([_round_speedup(pairs, number) for number in rounds])


def _ratio(ratios: list[float | None]) -> dict[str, Any] | None:
    """A mean ratio as a document; None unless every round has a value."""
    known = [ratio for ratio in ratios if ratio is not None]
    return mean_ratio(known)._asdict() if known and len(known) == len(ratios) else None


def _round_speedup(pairs: list[Pair], number: int) -> float | None:
    """Geometric mean over the concurrencies of one round."""
    ratios = [pair.speedup for pair in pairs if pair.round == number]
    known = [ratio for ratio in ratios if ratio is not None]
    return geometric_mean(known) if known and len(known) == len(ratios) else None


def _speed(pairs: list[Pair], concurrency: int, arm: str = DRAFT) -> dict[str, Any]:
    """One concurrency: each round's throughputs and ratio, and the latencies of plain and ``arm``."""
    pairs = _at(pairs, concurrency)
    return {
        "rounds": [
            {
                "round": pair.round,
                PLAIN: pair.plain["output_tokens_per_second"],
                arm: pair.draft["output_tokens_per_second"],
                "speedup": pair.speedup,
            }
            for pair in pairs
        ],
        "speedup": _ratio([pair.speedup for pair in pairs]),
        "latencies": {
            PLAIN: mean_latencies([pair.plain for pair in pairs]),
            arm: mean_latencies([pair.draft for pair in pairs]),
        },
    }


def _services(benchmark: dict[str, Any], concurrency: int) -> dict[str, Any]:
    """Cost and goodput of plain and draft at one concurrency."""
    samples, slo = benchmark["samples"], benchmark["benchmark"].get("slo") or {}
    here = [one for one in samples if one["concurrency"] == concurrency]
    return {arm: service([one for one in here if one["arm"] == arm], slo) for arm in ARMS}


def acceptance(benchmark: dict[str, Any], replay: dict[str, Any] | None) -> dict[str, Any]:
    """The part of the summary that needs no statistics: where a draft is replayed there may be no scipy."""
    pairs = pair_up(benchmark["samples"])
    return _acceptance(pairs, [pair.without_looping() for pair in pairs], replay)


def _acceptance(pairs: list[Pair], calm: list[Pair], replay: dict[str, Any] | None) -> dict[str, Any]:
    """Served (from the engine's counters), predicted (from the replay), and their relative difference."""
    served = _figures([counters_of(pair.draft) for pair in pairs])
    served_calm = _figures([request_counters(pair.draft) for pair in calm])
    predicted = (replay or {}).get("all")
    predicted_calm = (replay or {}).get("without_looping")
    return {
        "served": served,
        "served_without_looping": served_calm,
        "served_by_concurrency": _served(pairs),
        **breakdown([pair.draft for pair in pairs]),
        "predicted": predicted,
        "predicted_without_looping": predicted_calm,
        "not_predicted": (replay or {}).get("not_predicted", "" if predicted else "the replay did not run"),
        "probe": (replay or {}).get("probe"),
        "not_probed": (replay or {}).get("not_probed", ""),
        "difference": _difference(served, predicted),
        "difference_without_looping": _difference(served_calm, predicted_calm),
    }


def _served(
    pairs: list[Pair], counting: Callable[[Sample], SpecCounters | None] = counters_of
) -> list[dict[str, Any]]:
    """The speculating arm's acceptance at each concurrency, pooled over the rounds."""
    found: dict[int, list[SpecCounters | None]] = {}
    for pair in pairs:
        found.setdefault(pair.concurrency, []).append(counting(pair.draft))
    return [{"concurrency": one, **(_figures(counted) or {})} for one, counted in found.items()]


def _breaks_even(speed: list[dict[str, Any]], steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The acceptance length at which a load is as fast as plain serving: what a step takes in plain ones.

    A draft of acceptance length t whose steps take c plain ones each is t / c times as fast, so that c is
    ``steps``' acceptance length (every step of the verifier counted) over the speedup.
    """
    lengths = {one["concurrency"]: one.get("acceptance_length") for one in steps}
    return [
        {
            "concurrency": one["concurrency"],
            "mean": length / ratio["mean"],
            "low": length / ratio["high"] if ratio["high"] else None,
            "high": length / ratio["low"] if ratio["low"] else None,
        }
        for one in speed
        if (ratio := one["speedup"]) and (length := lengths.get(one["concurrency"]))
    ]


def _figures(counters: list[SpecCounters | None]) -> dict[str, Any] | None:
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


def _difference(served: dict[str, Any] | None, predicted: dict[str, Any] | None) -> float | None:
    """(predicted - served) / served acceptance length."""
    if not served or not predicted or predicted["acceptance_length"] is None:
        return None
    return relative_difference(predicted["acceptance_length"], served["acceptance_length"])


def _exact_match(samples: list[Sample], pairs: list[Pair], calm: list[Pair]) -> dict[str, Any]:
    """Share of equal texts: draft against plain of the same round, and plain against itself."""
    by_load: dict[int, list[Sample]] = {}
    for one in samples:
        if one["arm"] == PLAIN:
            by_load.setdefault(one["concurrency"], []).append(one)
    draft = _match([(pair.plain, pair.draft) for pair in pairs])
    plain = _match([both for loads in by_load.values() for both in pairwise(loads)])
    return {
        "draft_against_plain": draft,
        "draft_against_plain_without_looping": _match([(pair.plain, pair.draft) for pair in calm]),
        "plain_against_plain": plain,
        # Plain serving need not repeat itself: 1 is as good as plain against itself.
        "relative": draft["rate"] / plain["rate"] if draft["rate"] is not None and plain["rate"] else None,
    }


def _match(comparisons: list[tuple[Sample, Sample]]) -> dict[str, Any]:
    left, right = [], []
    for one, other in comparisons:
        texts = {row["id"]: row["text_sha256"] for row in other["requests"]}
        for row in one["requests"]:
            if row["id"] in texts:
                left.append(row["text_sha256"])
                right.append(texts[row["id"]])
    return {"rate": match_rate(left, right), "compared": len(left)}


def _outputs(benchmark: dict[str, Any]) -> dict[str, Any] | None:
    """What the plain arm answered in round 1: rows, tokens, looping and length-limited ones."""
    return next((one["tokens"] for one in benchmark["rounds"] if "tokens" in one), None)
