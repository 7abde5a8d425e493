"""What a training's metrics show over time, small enough for a page.

A training has tens of thousands of steps and a plot some hundreds of points: neighbouring steps are averaged,
so that the noise of single steps does not hide the course.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

POINTS = 160


def loss_curve(metrics: Iterable[dict[str, Any]], points: int = POINTS) -> list[dict[str, float]]:
    """``step`` and mean ``loss`` of at most ``points`` runs of neighbouring optimiser steps."""
    steps = [row for row in metrics if row.get("kind") == "step" and row.get("loss") is not None]
    return [
        {
            "step": sum(row["step"] for row in some) / len(some),
            "loss": sum(row["loss"] for row in some) / len(some),
        }
        for some in _runs(steps, points)
    ]


def _runs(rows: Sequence[Any], count: int) -> list[Sequence[Any]]:
    """``rows`` cut into at most ``count`` runs whose lengths differ by one at most."""
    count = min(count, len(rows))
    ends = [len(rows) * place // count for place in range(count + 1)] if count else []
    return [rows[start:end] for start, end in pairwise(ends)]


def validation_curve(metrics: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each validation: the replayed acceptance, and the accuracy at each position over all rows.

    ``accuracy[k]``: share of rows whose first k + 1 tokens are all right (``training.validation``).
    """
    return [
        {
            "epoch": row["epoch"],
            "acceptance_length": (row.get("validation") or {}).get("acceptance_length"),
            "per_position": (row.get("validation") or {}).get("per_position"),
            "accuracy": (row.get("validation") or {}).get("joint"),
        }
        for row in metrics
        if row.get("kind") == "epoch"
    ]
