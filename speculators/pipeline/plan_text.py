"""The plan as people and programs read it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from speculators.pipeline.plan import ACCEPT, MEASURE, REUSE, RUN, StagePlan
from speculators.pipeline.reasons import Reason
from speculators.quantities import duration, size
from speculators.stages.documents import output_bytes, read_output

SCHEMA = "speculators/plan/v1"
MARKS = {REUSE: "=", RUN: "~", ACCEPT: "=", MEASURE: "!"}
#: Reasons of one kind beyond which only their number is said.
SHOWN = 4


def has_work(planned: Sequence[StagePlan]) -> bool:
    """Whether a stage has to be made; the benchmark, always measured anew, does not count."""
    return any(one.action == RUN for one in planned)


def document(name: str, planned: Sequence[StagePlan], benchmark_seconds: float | None) -> dict[str, Any]:
    """The plan as one JSON document."""
    return {
        "schema": SCHEMA,
        "recipe": name,
        "work": has_work(planned),
        "stages": [_entry(one, benchmark_seconds) for one in planned],
    }


def table(name: str, planned: Sequence[StagePlan], benchmark_seconds: float | None) -> str:
    """The plan as lines of text: a head, a line a stage, and one more for each further reason."""
    lines = [_head(name, planned, benchmark_seconds)]
    for one in planned:
        first, *more = _details(one) or [""]
        mark, action = MARKS.get(one.action, "-"), one.action
        lines.append(f"  {mark} {one.name:<14} {action:<8} {first}".rstrip())
        lines += [f"{'':<28}{line}" for line in more]
    return "\n".join(lines)


def _entry(one: StagePlan, benchmark_seconds: float | None) -> dict[str, Any]:
    return {
        "name": one.name,
        "action": one.action,
        "key": one.key or None,
        "continues": one.continues,
        "reasons": [reason._asdict() for reason in one.reasons],
        "seconds": _seconds(one, benchmark_seconds),
        "bytes": _bytes(one),
    }


def _head(name: str, planned: Sequence[StagePlan], benchmark_seconds: float | None) -> str:
    to_make = [one for one in planned if one.action == RUN]
    estimates = [_seconds(one, benchmark_seconds) for one in planned if one.action in (RUN, MEASURE)]
    known = [seconds for seconds in estimates if seconds is not None]
    unknown = len(estimates) - len(known)
    parts = [name, f"{len(planned)} stages, {len(to_make)} to run"]
    if known:
        bytes_ = sum(_bytes(one) or 0 for one in to_make)
        rest = f" and {unknown} never timed here" if unknown else ""
        disk = f", {size(bytes_)} of disk" if bytes_ else ""
        parts.append(f"about {duration(sum(known))}{rest}{disk} (from earlier runs)")
    return " · ".join(parts)


def _details(one: StagePlan) -> list[str]:
    if one.action == REUSE and one.output is not None:
        age = duration(max(0.0, time.time() - one.output.stat().st_mtime))
        return [f"{one.key[:12]}  {size(_bytes(one) or 0)}, made {age} ago"]
    lines = [_line(reason) for reason in _shortened(one.reasons)]
    return [*lines, *(["continues interrupted work"] if one.continues else [])]


def _shortened(reasons: Sequence[Reason]) -> list[Reason]:
    """The reasons, with long rows of one kind (an edit touches many modules) cut short."""
    shown: list[Reason] = []
    for kind in dict.fromkeys(reason.kind for reason in reasons):
        same = [reason for reason in reasons if reason.kind == kind]
        more = len(same) - SHOWN
        shown += same[:SHOWN] if more > 0 else same
        shown += [Reason(kind, f"and {more} more of this kind")] if more > 0 else []
    return shown


def _line(reason: Reason) -> str:
    return f"{reason.text}  ({reason.place})" if reason.place else reason.text


def _seconds(one: StagePlan, benchmark_seconds: float | None) -> float | None:
    """Estimated seconds; None where nothing is known, 0 where nothing is done."""
    if one.action == MEASURE:
        return benchmark_seconds
    if one.action != RUN:
        return 0.0
    cost = one.like.cost() if one.like else None
    return cost.seconds if cost else None


def _bytes(one: StagePlan) -> int | None:
    """Size of the output, as it is or as it was of the most similar one; None where nothing is known."""
    if one.output is not None:
        return output_bytes(read_output(one.output))
    cost = one.like.cost() if one.like else None
    return cost.bytes if cost else None
