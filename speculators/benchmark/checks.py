"""Is this comparison one at all?  Checks that a benchmark must pass before its figures mean anything.

A check is ok, not ok, or (None) could not be made; it always says on what it rests.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from speculators.benchmark.pairs import Pair, base_pairs, counters_of, pair_up, request_counters
from speculators.benchmark.rounds import BASE, BASE_PLAIN, DRAFT, FREE_ARMS, PLAIN, PLAIN_ARMS
from speculators.benchmark.statistics import relative_difference
from speculators.serving.graphs import graph_reach, step_tokens
from speculators.serving.launcher import is_cpu_build

TOKEN_TOLERANCE = 0.01
PREDICTION_TOLERANCE = 0.05
#: The arms that the verdict and the gate rest on; the others have checks of their own.
JUDGED = (PLAIN, DRAFT, BASE, BASE_PLAIN)
#: Checks whose failure makes the speedup meaningless.
BREAKING = ("requests", "same-work", "speculating", "possible", "capture-sizes")
#: Of those the ones that a round fails by itself, so that another one may take its place.
OF_A_ROUND = ("requests", "same-work")
#: And those that fail in every round until the recipe is another one.
OF_SETTINGS = ("speculating", "capture-sizes")


def run_checks(benchmark: dict[str, Any], pairs: list[Pair], summary: dict[str, Any]) -> list[dict[str, Any]]:
    """All checks in reading order: ``{"name", "ok", "detail"}``."""
    return [
        completed(benchmark, JUDGED),
        same_work(pairs),
        speculating(benchmark),
        possible(summary["speed"], summary["acceptance"]["served_by_concurrency"]),
        capture_sizes(benchmark, benchmark.get("engine_args") or {}, benchmark["speculation"]["tokens"]),
        _counted_twice(pairs),
        _predicted(summary),
    ]


def broken(checks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The failed checks that leave nothing to compare."""
    return [check for check in checks if check["name"] in BREAKING and check["ok"] is False]


def hopeless(benchmark: dict[str, Any]) -> list[dict[str, Any]]:
    """The failed checks that no further round can mend, of the draft and of what it is gated against."""
    samples, base = benchmark["samples"], benchmark.get("base")
    arms = [(pair_up(samples), benchmark.get("engine_args") or {}, benchmark["speculation"]["tokens"])]
    if base:
        arms.append((base_pairs(samples), base["engine"]["args"], base["speculation"]["tokens"]))
    made = [completed(benchmark, JUDGED), speculating(benchmark)]
    for pairs, args, tokens in arms:
        made += [same_work(pairs), capture_sizes(benchmark, args, tokens)]
    return broken(made)


def of_a_round(failed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of ``failed`` checks those that may pass when the round is measured again."""
    return [check for check in failed if check["name"] in OF_A_ROUND]


def _check(name: str, ok: bool | None, detail: str) -> dict[str, Any]:
    return {"name": name, "ok": ok, "detail": detail}


def completed(benchmark: Mapping[str, Any], arms: Collection[str]) -> dict[str, Any]:
    """Whether every load of ``arms`` answered all of its requests."""
    wanted = benchmark["benchmark"]["requests"]
    loads = [one for one in benchmark["samples"] if one["arm"] in arms]
    failed = [
        f"round {one['round']} {one['arm']} at {one['concurrency']}: {one['completed']} of {wanted} completed"
        for one in loads
        if one["completed"] != wanted or one["errored"] or one["incomplete"]
    ]
    fine = f"all {wanted} requests completed in each of {len(loads)} loads"
    return _check("requests", not failed, "; ".join(failed) or fine)


def same_work(pairs: list[Pair]) -> dict[str, Any]:
    """Two arms that say different amounts are not timed on the same thing."""
    differences = [
        (abs(relative_difference(pair.draft["output_tokens"], pair.plain["output_tokens"])), pair)
        for pair in pairs
        if pair.plain["output_tokens"]
    ]
    if not differences:
        return _check("same-work", None, "no output tokens to compare")
    worst, pair = max(differences, key=lambda one: one[0])
    ok = worst <= TOKEN_TOLERANCE
    text = f"output tokens of the arms differ by at most {worst:.2%} (allowed {TOKEN_TOLERANCE:.0%})"
    return _check("same-work", ok, text if ok else f"{text}, in round {pair.round} at {pair.concurrency}")


def speculating(benchmark: dict[str, Any]) -> dict[str, Any]:
    """Whether a draft proposed something in each of its loads, and nothing was proposed in plain serving."""
    loads = [one for one in benchmark["samples"] if one["arm"] in (DRAFT, BASE)]
    silent = [one for one in loads if not one["counters"] or not one["counters"]["drafts"]]
    others = [one for one in benchmark["samples"] if one["arm"] in PLAIN_ARMS and one["counters"]]
    # What only repeats may well find nothing to propose; a draft model always does.
    may_be_silent = benchmark["speculation"]["algorithm"] in FREE_ARMS
    if not loads and not others:  # an arm without a draft was asked for alone
        return _check("speculating", None, "no load with a draft")
    ok = (may_be_silent or not silent) and not others
    detail = f"{len(loads) - len(silent)} of {len(loads)} draft loads drafted, {len(others)} plain loads did"
    # The server speculates, its client saw to that: then it is the requests that leave no room.
    hint = "; nothing is drafted in answers of one token, nor at engine.args.max_model_len"
    return _check("speculating", ok, detail + (hint if silent and not may_be_silent else ""))


def possible(speed: list[dict[str, Any]], served_by_concurrency: list[dict[str, Any]]) -> dict[str, Any]:
    """In closed-loop serving at equal concurrency a draft saves steps, at most acceptance length of them."""
    served = {one["concurrency"]: one.get("acceptance_length") for one in served_by_concurrency}
    compared, impossible = 0, []
    for one in speed:
        ratio, limit = one["speedup"], served.get(one["concurrency"])
        if ratio is None or ratio["low"] is None or limit is None:
            continue
        compared += 1
        if ratio["low"] > limit:
            impossible.append(
                f"at {one['concurrency']}: speedup at least {ratio['low']:.2f}, acceptance length {limit:.2f}"
            )
    if not compared:
        return _check("possible", None, "an interval of the speedup needs two rounds")
    fine = "no speedup exceeds its acceptance length"
    return _check("possible", not impossible, "; ".join(impossible) or fine)


def implausible(speed: list[dict[str, Any]], served_by_concurrency: list[dict[str, Any]]) -> list[str]:
    """A warning of each load whose mean speedup no draft can give: all there is to go by in one round."""
    served = {one["concurrency"]: one.get("acceptance_length") for one in served_by_concurrency}
    return [
        f"at {one['concurrency']}: {one['speedup']['mean']:.2f} times the plain speed is more than an "
        f"acceptance length of {limit:.2f} can give: something else slowed plain serving"
        for one in speed
        if one["speedup"] and (limit := served.get(one["concurrency"])) and one["speedup"]["mean"] > limit
    ]


def capture_sizes(benchmark: dict[str, Any], args: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """Whether the widest batch of a speculating arm fits the engine's captured graphs.

    Beyond them it runs without, which plain serving at the same load need not.

    ``args``: the engine's of that arm; ``tokens``: what it proposes a step.
    """
    name = "capture-sizes"
    launcher = benchmark.get("launcher") or {}
    engine, reach = launcher.get("engine"), graph_reach(args)
    if reach is None or (engine and is_cpu_build(engine, launcher.get("version") or "")):
        return _check(name, True, "no graphs are captured, in any arm")
    if engine is None:
        return _check(name, None, "the engine is not known")
    requests = max(benchmark["benchmark"]["concurrency"])
    width = step_tokens(args, min(requests, args.get("max_num_seqs") or requests) * (tokens + 1))
    return _check(name, reach.holds(width), f"a step of the widest load has {width} tokens, {reach.said}")


def _counted_twice(pairs: list[Pair]) -> dict[str, Any]:
    """The engine's counters and its per-request counts are two ways to the same sum."""
    compared, different = 0, []
    for pair in pairs:
        whole, parts = counters_of(pair.draft), request_counters(pair.draft)
        if whole is None or parts is None:
            continue
        compared += 1
        if whole != parts:
            place = f"round {pair.round} at {pair.concurrency}"
            different.append(f"{place}: {tuple(whole)} against {tuple(parts)}")
    if not compared:
        return _check("counters", None, "no per-request counts were reported")
    fine = "engine counters equal the sum over requests"
    return _check("counters", not different, "; ".join(different) or fine)


def _predicted(summary: dict[str, Any]) -> dict[str, Any]:
    difference = summary["acceptance"]["difference"]
    if difference is None:
        return _check("predicted", None, summary["acceptance"]["not_predicted"] or "nothing to compare")
    return _check(
        "predicted",
        abs(difference) <= PREDICTION_TOLERANCE,
        f"predicted acceptance length differs from the served one by {difference:+.1%} "
        f"(allowed {PREDICTION_TOLERANCE:.0%})",
    )
