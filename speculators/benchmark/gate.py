"""Has something become slower?  The rule that turns an estimate of a change into a verdict.

The rule is three-way, because a small benchmark on a noisy machine often cannot know: a gate that
must say yes or no then cries wolf or sleeps.  And it asks for size and certainty both: a loss that is
certain but within the tolerance is none, and a large one that may be noise is not yet one.

It may look several times, as rounds come in.  Looking until something is significant inflates false
alarms; so the error probability is divided over the looks (Bonferroni), which holds whatever the noise
is distributed like and however looks depend on each other.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from speculators.benchmark.statistics import Estimate

ALPHA = 0.05
LOOKS = (5, 7, 9, 12)

REGRESSION, OK, UNDECIDED = "regression", "ok", "undecided"
#: What counts when several figures are gated: one regression is enough, one doubt forbids an ok.
SEVERITY = (REGRESSION, UNDECIDED, OK)


class Judged(NamedTuple):
    """A relative change with its one-sided bounds and the verdict on it."""

    change: float
    low: float
    high: float
    verdict: str


def judge(change: Estimate, tolerance: float, alpha: float = ALPHA) -> Judged:
    """The verdict on ``change``, an estimate of a logarithm of new over old, at one look.

    * regression: the upper bound is below no change, and the estimate below the tolerance
    * ok: the lower bound is above the tolerance
    * undecided: neither

    ``tolerance``: the relative loss that is still no regression, as 0.03.  Each bound holds with
    probability 1 - ``alpha``.
    """
    low, high, limit = change.below(alpha), change.above(alpha), math.log1p(-tolerance)
    verdict = UNDECIDED
    if high < 0 and change.mean < limit:
        verdict = REGRESSION
    elif low > limit:
        verdict = OK
    return Judged(math.expm1(change.mean), math.expm1(low), math.expm1(high), verdict)


def spent(looks: int, alpha: float = ALPHA) -> float:
    """The error probability that each of so many looks may spend."""
    return alpha / looks


def worst(verdicts: list[str]) -> str:
    """The verdict over several gated figures.

    Raises:
        ValueError: there are none.
    """
    return min(verdicts, key=SEVERITY.index)
