"""From the requests of one load to its figures: the only place where they are defined.

* wall seconds: from the first request sent to the last answer complete, so the client's own start-up
  and its report are outside
* output tokens/s: all output tokens over those wall seconds
* percentiles: over requests, linear between ranks
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from speculators.benchmark.guidellm_report import LoadReport, RequestRow
from speculators.benchmark.statistics import percentile
from speculators.serving.metrics import SpecCounters

PERCENTILES = (50, 95, 99)


def load_document(
    concurrency: int,
    report: LoadReport,
    ids: Sequence[str],
    looping: Mapping[int, bool],
    counters: SpecCounters | None,
) -> dict[str, Any]:
    """One load as it is stored; ``ids`` names the prompts, ``looping`` flags outputs by prompt index."""
    rows = report.rows
    seconds = max(row.ended for row in rows) - min(row.started for row in rows) if rows else None
    tokens = sum(row.output_tokens for row in rows)
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
        "ttft_ms": _percentiles([row.ttft_ms for row in rows]),
        "itl_ms": _percentiles([row.itl_ms for row in rows]),
        "tpot_ms": _percentiles([row.tpot_ms for row in rows]),
        "latency_ms": _percentiles([1000 * (row.ended - row.started) for row in rows]),
        "counters": counters._asdict() if counters else None,
        "requests": [_request(row, ids, looping) for row in rows],
    }


def _percentiles(values: Sequence[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    return {f"p{rank}": percentile(known, rank) for rank in PERCENTILES} if known else None


def _request(row: RequestRow, ids: Sequence[str], looping: Mapping[int, bool]) -> dict[str, Any]:
    return {
        "id": ids[row.prompt],
        "output_tokens": row.output_tokens,
        "seconds": row.ended - row.started,
        "looping": looping[row.prompt],
        "text_sha256": hashlib.sha256(row.text.encode()).hexdigest(),
        "text": row.text,
        "spec": row.spec._asdict() if row.spec else None,
    }
