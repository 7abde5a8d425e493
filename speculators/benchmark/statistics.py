"""The mathematics of a benchmark, apart from everything that measures.

A speedup is a ratio of two arms in one round, so what is averaged is its logarithm; the interval is
Student's t over rounds, because the launch is the unit of repetition (requests of one launch share
its luck) and because a bootstrap over a handful of rounds is too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

CONFIDENCE = 0.95


class Ratio(NamedTuple):
    """A mean ratio with its interval; ``low`` and ``high`` are None with fewer than two rounds."""

    mean: float
    low: float | None
    high: float | None
    rounds: int


def percentile(values: Sequence[float], rank: float) -> float:
    """The ``rank`` percentile (0 to 100) of ``values``, linear between neighbours.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("a percentile needs at least one value")
    ordered = sorted(values)
    position = (len(ordered) - 1) * rank / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def t_quantile(confidence: float, degrees: int) -> float:
    """Two-sided Student t quantile."""
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, degrees))


def mean_ratio(ratios: Sequence[float], confidence: float = CONFIDENCE) -> Ratio:
    """Geometric mean of one ratio a round, with the t interval of the mean logarithm.

    Raises:
        ValueError: no ratios, or one that is not positive.
    """
    logs = [math.log(ratio) for ratio in ratios]
    if not logs:
        raise ValueError("a mean ratio needs at least one round")
    mean = math.fsum(logs) / len(logs)
    if len(logs) < 2:
        return Ratio(math.exp(mean), None, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in logs) / (len(logs) - 1)
    half = t_quantile(confidence, len(logs) - 1) * math.sqrt(variance / len(logs))
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(logs))


def geometric_mean(values: Sequence[float]) -> float:
    """Geometric mean of positive values."""
    return math.exp(math.fsum(math.log(value) for value in values) / len(values))


def relative_difference(value: float, reference: float) -> float:
    """(value - reference) / reference."""
    return (value - reference) / reference


def match_rate(left: Sequence[str], right: Sequence[str]) -> float | None:
    """Share of equal entries of two equally long lists; None when they are empty."""
    if not left:
        return None
    return sum(a == b for a, b in zip(left, right, strict=True)) / len(left)
