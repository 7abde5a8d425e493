"""The first words of a report, for somebody who will read nothing else: how much faster, and where to use it.

The verdict below it says how sure that is; here only the certain counts as faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from speculators.benchmark.checks import broken
from speculators.report.verdict import fastest, judgement, proposed, requests, shown

FASTER = "faster"
SLOWER = "slower"


def headline(summary: dict[str, Any]) -> str:
    """One sentence for a benchmark summary: "1.31× the plain speed at one request at a time: use it."."""
    if broken(summary["checks"]):
        return "No verdict: the comparison is broken."
    judged = [(one, judgement(one)) for one in summary["speed"] if one["speedup"]]
    if not judged:
        return "No verdict: no speed was measured in both arms."
    speeds = speeds_of([one for one, _ in judged])
    if all(one["speedup"]["low"] is None for one, _ in judged):
        return f"{speeds}, in one round, which shows nothing for sure."
    advised = advice([(one["concurrency"], word) for one, word in judged])
    return f"{speeds}: {advised}{winner(summary)}."


def speeds_of(loads: Sequence[dict[str, Any]]) -> str:
    """The speedups of measured loads in a row, the first with what it means; "" without any."""
    return ", ".join(
        f"{one['speedup']['mean']:.2f}× "
        + (f"at {one['concurrency']}" if number else f"the plain speed at {requests(one['concurrency'])}")
        for number, one in enumerate(loads)
    )


def winner(summary: dict[str, Any]) -> str:
    """What is certainly faster than the draft as it is served, the fastest of several; or nothing.

    Where the draft is not shown to gain it is what is certainly faster than plain serving.
    """
    arms = [*summary.get("extra_arms", []), *summary.get("depths", [])]
    one = fastest(arms)
    if not (found := one or shown(summary, arms)):
        return ""
    loads = [load for load in found["speed"] if load["speedup"]]
    over_all = "over all loads " if len(loads) > 1 else ""
    if "tokens" in found:
        by = f"with {proposed(found['tokens'])}"
        text = f"{by} it is faster" if one else f"a gain is shown {by}"
    else:
        by = f"{found['arm']}, which needs no training"
        text = f"{by}, is faster" if one else f"a gain is shown by {by}"
    return f"; {over_all}{text}: {speeds_of(loads)}"


def advice(loads: Sequence[tuple[int, str]]) -> str:
    """What to do, from the judgement of each measured load."""
    faster = [load for load, word in loads if word == FASTER]
    slower = [load for load, word in loads if word.startswith(SLOWER)]
    open_ = [load for load, word in loads if word != FASTER and not word.startswith(SLOWER)]
    if len(faster) == len(loads):
        return "use it"
    if len(slower) == len(loads):
        return "leave it off"
    if faster:
        text = f"use it {_where(faster, [load for load, _ in loads])}"
        text += f", leave it off at {_several(slower)}" if slower else ""
        return f"{text}; no gain is shown at {_several(open_)}" if open_ else text
    if slower:
        certain = [load for load, word in loads if word == SLOWER]
        doubtful = [load for load in slower if load not in certain]
        losses = [f"at {_several(certain)} a loss"] if certain else []
        losses += [f"at {_several(doubtful)} every round was slower"] if doubtful else []
        return f"no gain is shown, and {' and '.join(losses)}"
    return "no difference is shown that is larger than the noise"


def _where(faster: Sequence[int], measured: Sequence[int]) -> str:
    """The loads at which it pays; "up to" only where everything measured below is faster too."""
    if list(faster) == [1]:
        return "for one request at a time"
    if set(faster) == {load for load in measured if load <= max(faster)}:
        return f"up to {max(faster)} requests at a time"
    return f"at {_several(faster)} requests at a time"


def _several(loads: Sequence[int]) -> str:
    words = [str(load) for load in loads]
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
