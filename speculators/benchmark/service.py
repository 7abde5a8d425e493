"""What serving is worth to who pays and to who waits: cost of a token, and requests that were fast enough.

* machine-seconds per million tokens: what a million output tokens occupy the whole machine for
* goodput: requests a second that kept every limit of the recipe's ``benchmark.slo`` (Zhong and others,
  "DistServe", OSDI 2024, section 2); a latency that was not observed keeps no limit
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from speculators.benchmark.pairs import Sample
from speculators.benchmark.statistics import geometric_mean

MILLION = 1_000_000


def service(samples: Sequence[Sample], slo: Mapping[str, float]) -> dict[str, Any]:
    """One arm at one load over the rounds; None where it was not measured or no limit is stated."""
    speeds = [one["output_tokens_per_second"] for one in samples]
    known = [speed for speed in speeds if speed]
    return {
        "machine_seconds_per_million_tokens": MILLION / geometric_mean(known) if known else None,
        "goodput": _goodput(samples, slo) if slo else None,
    }


def _goodput(samples: Sequence[Sample], slo: Mapping[str, float]) -> dict[str, float] | None:
    seconds = sum(one["wall_seconds"] or 0.0 for one in samples)
    rows = [row for one in samples for row in one["requests"]]
    # Who got no answer was not served in time.
    asked = len(rows) + sum(one["errored"] for one in samples)
    if not (seconds and asked):
        return None
    good = sum(kept(row, slo) for row in rows)
    return {"requests_per_second": good / seconds, "share": good / asked}


def kept(request: Mapping[str, Any], slo: Mapping[str, float]) -> bool:
    """Whether a request kept every limit."""
    return all(request.get(name) is not None and request[name] <= limit for name, limit in slo.items())
