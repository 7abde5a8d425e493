"""From the requests of one load to its figures: the only place where they are defined.

* wall seconds: from the first request sent to the last answer complete, so the client's own start-up
  and its report are outside; where the requests of several servers took turns, the sum over those of one,
  so the client's moments between two requests are outside as well
* output tokens/s: all output tokens over those wall seconds
* percentiles: over requests, linear between ranks

Of a part of a load's requests the wall seconds are not known, because the others ran beside them.
Its output tokens/s are estimated by Little's law: its tokens over the seconds of its requests, times
the requests at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from speculators.benchmark.guidellm_report import LoadReport, RequestRow
from speculators.benchmark.statistics import percentile
from speculators.serving.metrics import SpecCounters

PERCENTILES = (50, 95, 99)
NO_MARKS: Mapping[str, Mapping[str, str]] = MappingProxyType({})
LATENCIES = ("ttft_ms", "itl_ms", "tpot_ms", "latency_ms")


def load_document(
    concurrency: int | None,
    report: LoadReport,
    ids: Sequence[str],
    looping: Mapping[int, bool],
    counters: SpecCounters | None,
    marks: Mapping[str, Mapping[str, str]] = NO_MARKS,
) -> dict[str, Any]:
    """One load as it is stored; ``ids`` names the prompts, ``looping`` flags outputs by prompt index.

    ``concurrency``: None where the load does not keep a number of requests in flight.  ``marks``:
    group and data set of each prompt that has them, by its id.
    """
    rows = report.rows
    seconds = _wall_seconds(report)
    tokens = sum(row.output_tokens for row in rows)
    requests = [_request(row, ids, looping, marks) for row in rows]
    return {
        "concurrency": concurrency,
        "guidellm": report.guidellm,
        "completed": len(rows),
        "errored": report.errored,
        "incomplete": report.incomplete,
        "output_tokens": tokens,
        "wall_seconds": seconds,
        "output_tokens_per_second": tokens / seconds if seconds else None,
        "requests_per_second": len(rows) / seconds if seconds else None,
        **_latencies(requests),
        "counters": counters._asdict() if counters else None,
        "requests": requests,
    }


def _wall_seconds(report: LoadReport) -> float | None:
    rows = report.rows
    if not rows:
        return None
    if report.in_turns:
        return sum(row.ended - row.started for row in rows)
    return max(row.ended for row in rows) - min(row.started for row in rows)


def without(load: dict[str, Any], prompts: frozenset[str]) -> dict[str, Any]:
    """``load`` (as ``load_document`` leaves it) as if ``prompts`` had not been asked for.

    The load itself when it holds none of them.
    """
    kept = [row for row in load["requests"] if row["id"] not in prompts]
    if len(kept) == len(load["requests"]):
        return load
    seconds = sum(row["seconds"] for row in kept)
    tokens = sum(row["output_tokens"] for row in kept)
    rate = load["concurrency"] * tokens / seconds if seconds else None
    return {**load, "requests": kept, "output_tokens_per_second": rate, **_latencies(kept)}


def mean_latencies(loads: Sequence[dict[str, Any]]) -> dict[str, dict[str, float] | None]:
    """Each percentile averaged over ``loads``, which differ in their rounds only."""
    return {name: _mean([one[name] for one in loads if one[name] is not None]) for name in LATENCIES}


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float] | None:
    """The rows' mean, key by key; None of none."""
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]} if rows else None


def _latencies(requests: Sequence[dict[str, Any]]) -> dict[str, dict[str, float] | None]:
    """Percentiles of each latency over the requests that have it; None where none has."""
    return {name: _percentiles([row.get(name) for row in requests]) for name in LATENCIES}


def _percentiles(values: Sequence[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    return {f"p{rank}": percentile(known, rank) for rank in PERCENTILES} if known else None


def _request(
    row: RequestRow, ids: Sequence[str], looping: Mapping[int, bool], marks: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    own = marks.get(ids[row.prompt], {})
    return {
        "id": ids[row.prompt],
        "group": own.get("group"),
        "dataset": own.get("dataset"),
        "prompt_tokens": row.prompt_tokens,
        "output_tokens": row.output_tokens,
        "seconds": row.ended - row.started,
        "ttft_ms": row.ttft_ms,
        "itl_ms": row.itl_ms,
        "tpot_ms": row.tpot_ms,
        "latency_ms": 1000 * (row.ended - row.started),
        "looping": looping[row.prompt],
        "text_sha256": hashlib.sha256(row.text.encode()).hexdigest(),
        "text": row.text,
        "spec": row.spec._asdict() if row.spec else None,
    }
