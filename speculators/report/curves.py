"""What a training's metrics show over time, small enough for a page.

A training has tens of thousands of steps and a plot some hundreds of points: neighbouring steps are averaged,
so that the noise of single steps does not hide the course.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

POINTS = 160
SURE = 2.0  # standard errors that a gain has to have
BY_HEART = 0.95  # of the loss of the stretch before: a fall that a held-out gain should go with


def loss_curve(metrics: Iterable[dict[str, Any]], points: int = POINTS) -> list[dict[str, float]]:
    """``step`` and mean ``loss`` of at most ``points`` runs of neighbouring optimiser steps."""
    steps = list(_steps(metrics))
    return [
        {
            "step": sum(row["step"] for row in some) / len(some),
            "loss": sum(row["loss"] for row in some) / len(some),
        }
        for some in _runs(steps, points)
    ]


def _steps(metrics: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (row for row in metrics if row.get("kind") == "step" and row.get("loss") is not None)


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


def lesson(metrics: Sequence[dict[str, Any]]) -> str:
    """What the last stretch between validations taught, and with it what would help; "" where nobody knows.

    A loss that falls on the training rows while the held-out ones gain no more than noise is learnt by heart:
    then other prompts help, and more epochs do not.  The gain is paired by document, with one standard error
    (``training/noise.py``).
    """
    ends = [row for row in metrics if row.get("kind") == "epoch"]
    if len(ends) < 3 or not (last := ends[-1].get("gain")):
        return ""
    before, after = (_mean_loss(metrics, *between) for between in pairwise(row["step"] for row in ends[-3:]))
    if not before or not after:
        return ""
    gain, noise = last["gain"], last["noise"]
    text = (
        f"From the last validation but one to the last the loss on training rows changed by "
        f"{after / before - 1:+.0%}, the acceptance length on validation by {gain:+.3f} ± {noise:.3f}"
    )
    if gain > SURE * noise:
        return f"{text}: it was still learning, so more epochs may help."
    if after < BY_HEART * before:
        return f"{text}: it learns these conversations by heart. More prompts would help, more epochs hardly."
    return f"{text}."


def _mean_loss(metrics: Iterable[dict[str, Any]], start: int, end: int) -> float | None:
    """Of the optimiser steps after ``start`` up to ``end``; None without any."""
    found = [row["loss"] for row in _steps(metrics) if start < row["step"] <= end]
    return sum(found) / len(found) if found else None
