"""The mathematics of a benchmark, apart from everything that measures.

A speedup is a ratio of two arms in one round, so what is averaged is its logarithm; the interval is
Student's t over rounds, because the launch is the unit of repetition (requests of one launch share
its luck) and because a bootstrap over a handful of rounds is too narrow.
"""

from __future__ import annotations

import functools
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


class Estimate(NamedTuple):
    """A mean (of logarithms, mostly) with its standard error and the degrees of freedom of that."""

    mean: float
    error: float
    degrees: float

    def below(self, alpha: float) -> float:
        """The bound that the truth lies below with probability ``alpha``: the lower one, one-sided."""
        return self.mean - t_quantile(1 - alpha, self.degrees) * self.error if self.error else self.mean

    def above(self, alpha: float) -> float:
        """The bound that the truth lies above with probability ``alpha``: the upper one, one-sided."""
        return 2 * self.mean - self.below(alpha)


@functools.lru_cache(maxsize=4096)
def t_quantile(probability: float, degrees: float) -> float:
    """The value that a Student t variate of so many degrees of freedom is below with ``probability``."""
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    return float(stdtrit(degrees, probability))


def mean_estimate(values: Sequence[float], known: float = 0.0) -> Estimate:
    """The mean of ``values`` with the error of Student ("The probable error of a mean", 1908).

    ``known``: the standard deviation that such values are known to have.  Five values agree by chance
    now and then; a smaller spread than the known one is then no knowledge, and is not used.

    Raises:
        ValueError: fewer than two values have no error.
    """
    if len(values) < 2:
        raise ValueError("an estimate of the error needs at least two values")
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    spread = max(math.sqrt(variance), known)
    return Estimate(mean, spread / math.sqrt(len(values)), len(values) - 1)


def spread_of(values: Sequence[float]) -> float:
    """Standard deviation of a sample of at least two values."""
    return mean_estimate(values).error * math.sqrt(len(values))


def welch(new: Sequence[float], old: Sequence[float], known: float = 0.0) -> Estimate:
    """The difference of two means, ``new`` less ``old``, of samples with variances of their own.

    Welch ("The generalization of Student's problem", 1947), with Satterthwaite's degrees of freedom
    (1946); the same as ``scipy.stats.ttest_ind(equal_var=False)``.  ``known``: as of ``mean_estimate``,
    for ``new``.

    Raises:
        ValueError: one sample has fewer than two values.
    """
    one, other = mean_estimate(new, known), mean_estimate(old)
    squares = one.error**2, other.error**2
    total = sum(squares)
    degrees = one.degrees + other.degrees
    if total:
        # Shares, not squares of squares: those of a tiny error would vanish.
        shares = squares[0] / total, squares[1] / total
        degrees = 1 / (shares[0] ** 2 / one.degrees + shares[1] ** 2 / other.degrees)
    return Estimate(one.mean - other.mean, math.sqrt(total), degrees)


def mean_ratio(ratios: Sequence[float], confidence: float = CONFIDENCE) -> Ratio:
    """Geometric mean of one ratio a round, with the two-sided t interval of the mean logarithm.

    Raises:
        ValueError: no ratios, or one that is not positive.
    """
    logs = [math.log(ratio) for ratio in ratios]
    if not logs:
        raise ValueError("a mean ratio needs at least one round")
    if len(logs) < 2:
        return Ratio(math.exp(logs[0]), None, None, 1)
    estimate, alpha = mean_estimate(logs), (1 - confidence) / 2
    low, high = estimate.below(alpha), estimate.above(alpha)
    return Ratio(math.exp(estimate.mean), math.exp(low), math.exp(high), len(logs))


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
