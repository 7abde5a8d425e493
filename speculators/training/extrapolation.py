"""Where the acceptance length will end, told from the first half of a run.

A learning curve's shape is not known beforehand, so the honest way is to admit several.  With ``x`` the
share of the run that is done, in (0, 1], each candidate is a straight line in a transform of x:

    ``y(x) = end + slope * f(x)``,   ``f(x) = sqrt x - 1``,  ``log x``,  ``1 - 1/sqrt x``  or  ``1 - 1/x``

from growth that hardly slackens to one that nearly stands still: the Box-Cox family at 1/2, 0, -1/2 and
-1, whose members with a ceiling are the power laws of learning curves (Hestness et al., arXiv
1712.00409).  Every f is zero at x = 1, so the intercept *is* the prediction of the end.  Each line is
fitted by weighted least squares to the points with their standard errors; the prediction is their mean,
and its variance is the mean of their variances plus the spread between them: what the shape leaves open
is part of the error.

The points' errors are taken as independent.  They share their documents, so differences along the
curve are surer than that: the error told errs on the wide side.  What no curve knows is a schedule
that brings the learning rate down later; the run's record says what came, beside what was predicted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

SHAPES: tuple[Callable[[float], float], ...] = (
    lambda x: math.sqrt(x) - 1,
    math.log,
    lambda x: 1 - x**-0.5,
    lambda x: 1 - 1 / x,
)
LEAST_POINTS = 2


class Point(NamedTuple):
    """An acceptance length at a share of the run, with its standard error."""

    share: float  # of all epochs, in (0, 1]
    length: float
    error: float


class Forecast(NamedTuple):
    """The acceptance length expected at the end, and the standard error of that."""

    length: float
    error: float
    points: int

    def holds(self, came: float) -> bool:
        """Whether ``came`` lies within two standard errors."""
        return abs(came - self.length) <= 2 * self.error


def forecast(points: Sequence[Point], ceiling: float) -> Forecast | None:
    """The end of the curve through ``points``, at most ``ceiling``; None when they are too few.

    Raises:
        ValueError: two points are at the same share, or one is outside of (0, 1].
    """
    shares = [point.share for point in points]
    if len(set(shares)) != len(shares) or not all(0 < share <= 1 for share in shares):
        raise ValueError(f"shares of a run must be distinct and in (0, 1]: {shares}")
    if len(points) < LEAST_POINTS or not all(math.isfinite(point.error) for point in points):
        return None
    ends = [_end(points, shape) for shape in SHAPES]
    mean = sum(length for length, _ in ends) / len(ends)
    within = sum(variance for _, variance in ends) / len(ends)
    between = sum((length - mean) ** 2 for length, _ in ends) / (len(ends) - 1)
    return Forecast(min(max(mean, 1.0), ceiling), math.sqrt(within + between), len(points))


def _end(points: Sequence[Point], shape: Callable[[float], float]) -> tuple[float, float]:
    """Intercept and its variance of the weighted least-squares line in ``shape(share)``."""
    # A replay without any noise (all documents alike) would weigh infinitely: a floor far below any real one.
    weights = [1 / max(point.error, 1e-6) ** 2 for point in points]
    places = [shape(point.share) for point in points]
    total = sum(weights)
    centre = sum(weight * place for weight, place in zip(weights, places)) / total
    mean = sum(weight * point.length for weight, point in zip(weights, points)) / total
    spread = sum(weight * (place - centre) ** 2 for weight, place in zip(weights, places))
    slope = (
        sum(w * (place - centre) * (point.length - mean) for w, place, point in zip(weights, places, points))
        / spread
    )
    return mean - slope * centre, 1 / total + centre**2 / spread
