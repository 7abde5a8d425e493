"""The learning rate over a run: a straight warm-up to the peak, then one of three ways down from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

FLOOR = 0.05  # of the peak: late epochs still move, and none of them is wasted at rate zero

#: By name: how far the rate has come down from its peak, 1 at ``progress`` 0; ``progress`` ends at 1.
SHAPES: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda progress: FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - (1 - FLOOR) * progress,
    "constant": lambda progress: 1.0,
}


def learning_rate_factor(step: int, total_steps: int, warmup_fraction: float, schedule: str) -> float:
    """The fraction of the peak rate that optimiser step ``step`` (0-based) of ``total_steps`` uses.

    Warm-up rises to 1 within ``warmup_fraction`` of all steps and never starts at 0: a step at
    rate zero would read its batch for nothing.  The last step of a falling schedule is at ``FLOOR``.
    """
    warmup = max(1, round(warmup_fraction * total_steps))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup + 1) / max(1, total_steps - warmup)  # in (0, 1]
    return SHAPES[schedule](progress)
