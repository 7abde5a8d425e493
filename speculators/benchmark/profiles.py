"""GuideLLM's own loads as a reader wants them: how fast and how soon each arm answers at which rate.

Every arm sweeps up to its own limit, so arms meet at no common rate, and nothing is compared or gated here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speculators.benchmark.load import mean_latencies
from speculators.benchmark.pairs import Sample
from speculators.benchmark.service import service


def profiles(benchmark: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each load of each arm and profile, over the rounds; empty where none was asked for."""
    slo = benchmark["benchmark"].get("slo") or {}
    places: dict[tuple[str, str, int], list[Sample]] = {}
    seen: dict[tuple[int, str, str], int] = {}
    for one in benchmark.get("profiles", ()):
        launch = one["round"], one["arm"], one["profile"]
        place = seen[launch] = seen.get(launch, -1) + 1
        places.setdefault((one["profile"], one["arm"], place), []).append(one)
    return [
        {
            "profile": profile,
            "arm": arm,
            "strategy": loads[0]["strategy"],
            "rate": _mean([one["rate"] for one in loads]),
            "failed": sum(one["errored"] for one in loads),
            "requests_per_second": _mean([one["requests_per_second"] for one in loads]),
            "output_tokens_per_second": _mean([one["output_tokens_per_second"] for one in loads]),
            "latencies": mean_latencies(loads),
            "service": service(loads, slo),
        }
        for (profile, arm, _), loads in places.items()
    ]


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
