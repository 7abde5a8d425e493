"""From the benchmark document to the figures a reader wants, each with what it rests on.

Everything is computed from the samples; a figure that cannot be computed is None and is reported as
not measured, never filled in.
"""

from __future__ import annotations

from typing import Any

from speculators.benchmark.acceptance import acceptance_of, served_by_load
from speculators.benchmark.beside import base_arm, depths, extra_arms, free_arm, quantised, under
from speculators.benchmark.breakdown import asked_random
from speculators.benchmark.checks import implausible, run_checks
from speculators.benchmark.matching import exact_match
from speculators.benchmark.pairs import all_steps, pair_up
from speculators.benchmark.profiles import profiles
from speculators.benchmark.rounds import ARMS, CACHED, SAMPLED
from speculators.benchmark.service import service
from speculators.benchmark.speed import at, breaks_even, overall, speed_at
from speculators.benchmark.stability import warnings


def summarise(benchmark: dict[str, Any], replay: dict[str, Any] | None = None) -> dict[str, Any]:
    """All figures of one benchmark; ``replay`` is the document of the stage of that name."""
    pairs = pair_up(benchmark["samples"])
    calm = [pair.without_looping() for pair in pairs]
    concurrencies = benchmark["benchmark"]["concurrency"]
    summary: dict[str, Any] = {
        "rounds": benchmark["benchmark"]["rounds"],
        "requests": benchmark["benchmark"]["requests"],
        "side_by_side": bool(benchmark["benchmark"].get("side_by_side")),
        "max_tokens": benchmark["benchmark"]["max_tokens"],
        "speculation": benchmark["speculation"],
        "speed": [
            {
                "concurrency": concurrency,
                **speed_at(pairs, concurrency),
                "service": _services(benchmark, concurrency),
                "looping": sorted({name for pair in at(pairs, concurrency) for name in pair.looping}),
                "without_looping": speed_at(calm, concurrency),
            }
            for concurrency in concurrencies
        ],
        "overall_speedup": overall(pairs),
        "overall_speedup_without_looping": overall(calm),
        "acceptance": acceptance_of(pairs, calm, replay),
        "exact_match": exact_match(benchmark["samples"], pairs, calm),
        "outputs": _outputs(benchmark),
        "extra_arms": [free_arm(benchmark, pairs, arm, replay) for arm in extra_arms(benchmark)],
        "depths": depths(benchmark, pairs),
        "base": base_arm(benchmark, pairs, found) if (found := benchmark.get("base")) else None,
        "quantised": quantised(benchmark),
        "cached": under(benchmark, CACHED, pairs),
        "sampled": under(benchmark, SAMPLED, pairs),
        "sampling": benchmark.get("sampling") or {},
        "profiles": profiles(benchmark),
        "left_out": benchmark.get("left_out", {}),
        "random_prompts": asked_random(benchmark["samples"]),
        "warnings": warnings(benchmark),
    }
    summary["breaks_even"] = breaks_even(summary["speed"], served_by_load(pairs, all_steps))
    summary["warnings"] += implausible(summary["speed"], summary["acceptance"]["served_by_concurrency"])
    return summary | {"checks": run_checks(benchmark, pairs, summary)}


def _services(benchmark: dict[str, Any], concurrency: int) -> dict[str, Any]:
    """Cost and goodput of plain and draft at one concurrency."""
    samples, slo = benchmark["samples"], benchmark["benchmark"].get("slo") or {}
    here = [one for one in samples if one["concurrency"] == concurrency]
    return {arm: service([one for one in here if one["arm"] == arm], slo) for arm in ARMS}


def _outputs(benchmark: dict[str, Any]) -> dict[str, Any] | None:
    """What the plain arm answered in round 1: rows, tokens, looping and length-limited ones."""
    return next((one["tokens"] for one in benchmark["rounds"] if "tokens" in one), None)
