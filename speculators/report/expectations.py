"""Whether a run came out as others' did: the recipe's ``expect`` beside what was measured.

A figure that misses its range is no error: it says that something here is unlike what was published, the
data's size or the engine, and where to look.  One that was not measured is neither hit nor miss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from speculators.benchmark.measurement import ALONE

#: Stages that compute on GPUs where there are any.
ON_GPUS = frozenset({"prompts", "responses", "hidden_states", "training", "benchmark", "replay"})

TITLES = {
    "acceptance_length": "acceptance length",
    "speedup": "speedup at one request",
    "gpu_hours": "GPU-hours",
    "disk_gb": "GB on disk",
}


def expectations(
    expect: Mapping[str, Mapping[str, Any]],
    summary: Mapping[str, Any],
    stages: Sequence[Mapping[str, Any]],
    gpus: int,
) -> list[dict[str, Any]]:
    """A row an expectation: its range and source, what came, and ``met`` (None: not measured).

    ``stages``: those of the run's record, with seconds and bytes; ``gpus``: how many a stage had, 0 on a CPU.
    """
    alone = [one["speedup"] for one in summary["speed"] if one["concurrency"] == ALONE and one["speedup"]]
    measured = {
        "acceptance_length": (summary["acceptance"]["served"] or {}).get("acceptance_length"),
        "speedup": alone[0]["mean"] if alone else None,
        "gpu_hours": gpu_hours(stages, gpus),
        "disk_gb": sum(stage.get("bytes") or 0 for stage in stages) / 1e9,
    }
    return [
        {
            "name": name,
            "title": TITLES[name],
            "low": one.get("low"),
            "high": one.get("high"),
            "source": one["source"],
            "measured": measured[name],
            "met": within(measured[name], one.get("low"), one.get("high")),
        }
        for name, one in expect.items()
    ]


def within(value: float | None, low: float | None, high: float | None) -> bool | None:
    if value is None:
        return None
    return (low is None or value >= low) and (high is None or value <= high)


def gpu_hours(stages: Sequence[Mapping[str, Any]], gpus: int) -> float | None:
    """What the stages took on GPUs, reused ones as long as they took when they were made."""
    if not gpus:
        return None
    return sum(stage.get("seconds") or 0 for stage in stages if stage["name"] in ON_GPUS) * gpus / 3600


def wanted(row: Mapping[str, Any]) -> str:
    """``1.49 to 2.6``, or ``at most 310`` where only one end is said."""
    ends = " to ".join(f"{row[end]:g}" for end in ("low", "high") if row[end] is not None)
    if row["low"] is None or row["high"] is None:
        return f"{'at most' if row['low'] is None else 'at least'} {ends}"
    return ends


def sentence(row: Mapping[str, Any]) -> str:
    """``acceptance length 2.31: as expected, 1.49 to 2.6 (source)``."""
    if row["met"] is None:
        return f"{row['title']} not measured: {wanted(row)} expected ({row['source']})"
    word = "as expected," if row["met"] else "NOT as expected,"
    return f"{row['title']} {row['measured']:.2f}: {word} {wanted(row)} ({row['source']})"
