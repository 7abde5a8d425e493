"""The first sentence of a report: is serving faster, where, and how sure is that.

Written for somebody who reads nothing else.  A slow-down is said as plainly as a speed-up, and a
comparison that is broken gets no verdict at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from speculators.benchmark.checks import broken
from speculators.report.spelling import difference

#: Conditions of the summary, as a sentence names them.
UNDER = {
    "cached": "with the prefix cache on",
    "sampled": "with answers drawn as the model's own configuration says",
}

LOSES = "It loses to"
OF_RANDOM = " The prompts were random text, so acceptance, and speed with it, says nothing of real requests."


def verdict(summary: dict[str, Any]) -> str:
    """The sentence, or two, for a benchmark summary."""
    if failed := broken(summary["checks"]):
        reasons = "; ".join(f"{check['name']}: {check['detail']}" for check in failed)
        return f"No verdict: the comparison is broken ({reasons})."
    judged = [(one, judgement(one)) for one in summary["speed"] if one["speedup"]]
    if not judged:
        return "No verdict: no load gave a throughput in both arms."
    parts = [f"{word} at {requests(one['concurrency'])}: {figure(one['speedup'])}" for one, word in judged]
    text = "; ".join(parts)
    beside = OF_RANDOM if summary.get("random_prompts") else ""
    beside += with_other_depth(summary) + against_free(summary) + on_quantised(summary)
    beside += "".join(under(summary, name, words) for name, words in UNDER.items())
    return text[0].upper() + text[1:] + "." + advice([word for _, word in judged]) + beside


def judgement(one: dict[str, Any]) -> str:
    """``faster`` or ``slower`` where the whole interval says so, else what one can honestly say.

    ``one`` is a concurrency of the summary.
    """
    low, high = one["speedup"]["low"], one["speedup"]["high"]
    ratios = [row["speedup"] for row in one["rounds"]]
    if low is not None and low > 1:
        return "faster"
    if high is not None and high < 1:
        return "slower"
    if all(ratio > 1 for ratio in ratios):
        return "faster, but not certainly,"
    if all(ratio < 1 for ratio in ratios):
        return "slower, but not certainly,"
    return "no clear difference"


def figure(speedup: dict[str, Any]) -> str:
    """The ratio with its interval, or with the reason why there is none."""
    if speedup["low"] is None:
        return f"{speedup['mean']:.2f} times the plain speed (one round, so nothing is known of the spread)"
    return (
        f"{speedup['mean']:.2f} times the plain speed "
        f"(95% interval {speedup['low']:.2f} to {speedup['high']:.2f}, {speedup['rounds']} rounds)"
    )


def requests(concurrency: int) -> str:
    return "one request at a time" if concurrency == 1 else f"{concurrency} requests at a time"


def advice(words: list[str]) -> str:
    """What a slow-down means for the reader, and what helps against doubt."""
    slower = [word for word in words if word.startswith("slower")]
    there = "here" if len(slower) == len(words) else "for those loads"
    text = ""
    if slower and all(word == "slower" for word in slower):
        text = f" Speculation makes answers slower than without it: leave it off {there}."
    elif slower:
        text = f" Nothing measured speaks for turning speculation on {there}."
    if any(word not in ("faster", "slower") for word in words):
        text += " More rounds (benchmark.rounds) make it more certain."
    return text


def against_free(summary: dict[str, Any]) -> str:
    """Whether the draft beats what needs no training; nothing when that was not measured."""
    text = ""
    for one in summary.get("extra_arms", []):
        arm, over = one["arm"], one["draft_over_it"]
        if failed := [check for check in one["checks"] if check["ok"] is False]:
            text += f" Nothing can be said of {arm} ({failed[0]['name']}: {failed[0]['detail']})."
        elif over:
            text += f" {compared(over)} {arm}, which needs no training: {over['mean']:.2f} times its speed."
    return text


def with_other_depth(summary: dict[str, Any]) -> str:
    """The number of proposed tokens that is certainly faster than the draft's own; nothing without one.

    Where the draft's own is not shown to gain it is one that is certainly faster than plain serving.
    """
    arms = summary.get("depths", [])
    one = fastest(arms)
    if not (found := one or shown(summary, arms)):
        return ""
    loads = [load for load in found["speed"] if load["speedup"]]
    figures = "; ".join(f"{figure(load['speedup'])} at {requests(load['concurrency'])}" for load in loads)
    start = "Over all loads it is" if len(loads) > 1 else "It is"
    word = "faster" if one else "certainly faster than plain serving"
    return f" {start} {word} with {proposed(found['tokens'])}: {figures}."


def proposed(tokens: int) -> str:
    return "1 proposed token" if tokens == 1 else f"{tokens} proposed tokens"


def fastest(arms: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Of arms beside the draft the fastest that certainly beats it; None without one."""
    ahead = [
        one for one in arms if one["draft_over_it"] and compared(one["draft_over_it"]) == LOSES and sound(one)
    ]
    return min(ahead, key=lambda one: one["draft_over_it"]["mean"], default=None)


def sound(arm: dict[str, Any]) -> bool:
    """Whether none of the arm's own checks failed."""
    return all(check["ok"] is not False for check in arm["checks"])


def shown(summary: dict[str, Any], arms: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Where the draft is certainly faster at no load: of ``arms`` the fastest that certainly beats plain."""
    if any(one["speedup"] and judgement(one) == "faster" for one in summary["speed"]):
        return None
    ahead = [
        one
        for one in arms
        if (speedup := one.get("overall_speedup"))
        and speedup["low"] is not None
        and speedup["low"] > 1
        and sound(one)
    ]
    return max(ahead, key=lambda one: one["overall_speedup"]["mean"], default=None)


def on_quantised(summary: dict[str, Any]) -> str:
    """What the draft does for a quantised copy of the verifier; nothing when that was not measured."""
    one = summary.get("quantised")
    if not one:
        return ""
    if failed := [check for check in one["checks"] if check["ok"] is False]:
        return f" Nothing can be said of it on the quantised verifier ({failed[0]['name']})."
    own, both = one["overall_speedup"], one["both"]
    if not own or not both:
        return ""
    return (
        f" On the quantised verifier it gives {own['mean']:.2f} times that one's own plain speed; both "
        f"together are {both['mean']:.2f} times the plain speed of the verifier as it is."
    )


def under(summary: dict[str, Any], name: str, words: str) -> str:
    """What the draft does under another condition; nothing when that was not measured."""
    one = summary.get(name)
    if not one:
        return ""
    if failed := [check for check in one["checks"] if check["ok"] is False]:
        return f" Nothing can be said of it {words} ({failed[0]['name']})."
    if not one["overall_speedup"]:
        return ""
    change = one["acceptance_change"]
    beside = "" if change is None else f", and its acceptance length changes by {difference(change)}"
    return (
        f" {words.capitalize()} it gives {one['overall_speedup']['mean']:.2f} times the plain speed{beside}."
    )


def compared(over: dict[str, Any]) -> str:
    """How the draft stands to another arm, by the interval of their ratio."""
    if over["low"] is not None and over["low"] > 1:
        return "It beats"
    return LOSES if over["high"] is not None and over["high"] < 1 else "It is not shown to beat"
