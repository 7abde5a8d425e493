"""What a machine can see: where its noise comes from, and the smallest loss that it finds.

Two kinds of luck blur a speedup.  That of a launch (where memory lies, what else runs, how warm the
machine is) is shared by all its requests, so more requests do not help; that of a request averages out
within the launch.  Which of them is larger says whether time is better spent on launches or on requests.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

from speculators.benchmark.gate import ALPHA
from speculators.benchmark.statistics import spread_of, t_quantile

#: Probability with which a loss must be found to count as one that the machine can see.
POWER = 0.8
#: Of the quadrature over estimated spreads: exact to four digits.
NODES = 48
#: Of that over how wrong a measured spread is.
TRUTHS = 5


class Split(NamedTuple):
    """Variances of one logarithm: of a round's own luck, and of one request's within its round.

    ``between``: as estimated, so it may be below 0, and counts as 0 then.  ``degrees``: of freedom of the
    estimate, rounds less one; 0 where the truth is known.  ``prompts``: of each round that it was made from.
    """

    between: float
    within: float
    degrees: int = 0
    prompts: int = 1

    @property
    def of_launch(self) -> float:
        """Standard deviation of what all requests of a round have in common."""
        return math.sqrt(max(0.0, self.between))

    def of_round(self, requests: int) -> float:
        """Standard deviation of the mean over so many requests of one round."""
        return math.hypot(self.of_launch, math.sqrt(self.within / requests))

    def truths(self) -> list[tuple[Split, float]]:
        """What this estimate may stand for, with probabilities.

        A power is to be its mean over these: where the true noise is larger than a few rounds said, more of
        it is lost than is won where the noise is smaller, so the power at the estimate promises too much.

        A few rounds say little of how their means vary, but each of their prompts says something of a
        request's own luck: the first is drawn over, and what it leaves above the second is the launch's.
        """
        if not self.degrees:
            return [(self, 1.0)]
        of_requests = self.within / self.prompts
        estimates, weights = estimated_spreads(self.degrees, TRUTHS)
        of_means = ((self.between + of_requests) / one**2 for one in estimates)
        truths = (Split(variance - of_requests, self.within) for variance in of_means)
        return list(zip(truths, weights))


def split(table: Sequence[Sequence[float]]) -> Split:
    """The two variances in ``table[round][prompt]``, every prompt once in every round.

    The method of moments for a crossed layout without replication, whose prompts are fixed and whose
    rounds are random (Searle, Casella, McCulloch, "Variance Components", 1992, section 4.5): what prompts
    differ by of themselves is in neither.

    Raises:
        ValueError: fewer than two rounds or two prompts, or not the same prompts in each.
    """
    rounds, prompts = len(table), len(table[0]) if table else 0
    if rounds < 2 or prompts < 2:
        raise ValueError("splitting the noise needs at least two rounds of two prompts")
    if any(len(row) != prompts for row in table):
        raise ValueError("every round must hold the same prompts")
    of_round = [math.fsum(row) / prompts for row in table]
    of_prompt = [math.fsum(column) / rounds for column in zip(*table)]
    grand = math.fsum(of_round) / rounds
    squares = math.fsum(
        (value - of_round[i] - of_prompt[j] + grand) ** 2
        for i, row in enumerate(table)
        for j, value in enumerate(row)
    )
    within = squares / ((rounds - 1) * (prompts - 1))
    of_means = spread_of(of_round) ** 2
    return Split(of_means - within / prompts, within, rounds - 1, prompts)


def power(loss: float, spread: float, rounds: int, tolerance: float, alpha: float = ALPHA) -> float:
    """Probability that one look calls a true relative ``loss`` a regression.

    ``spread``: standard deviation of one round's change of the logarithm.  Over the distribution of the
    estimated spread (chi square) this is the noncentral t test's power, cut off by the tolerance.
    """
    from scipy.special import ndtr

    truth, limit = math.log1p(-loss), math.log1p(-tolerance)
    error, degrees = spread / math.sqrt(rounds), rounds - 1
    if not error:
        return float(truth < limit)
    needed = t_quantile(1 - alpha, degrees) * error

    # Of the estimates whose spread has this rank, the share that is low enough.
    spreads, weights = estimated_spreads(degrees)
    lowest = [min(limit, -needed * one) for one in spreads]
    found = (float(ndtr((one - truth) / error)) for one in lowest)
    return math.fsum(weight * share for weight, share in zip(weights, found))


@functools.lru_cache(maxsize=64)
def estimated_spreads(degrees: int, nodes: int = NODES) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Estimates of a standard deviation of 1, and their probabilities: Gauss's rule over their ranks."""
    from scipy.special import chdtri, roots_legendre

    places, weights = roots_legendre(nodes)
    spreads = (math.sqrt(chdtri(degrees, (1 - node) / 2) / degrees) for node in places)
    return tuple(spreads), tuple(float(weight) / 2 for weight in weights)


def smallest_loss(
    spread: float,
    rounds: int,
    tolerance: float,
    alpha: float = ALPHA,
    wanted: float = POWER,
    degrees: int = 0,
) -> float | None:
    """The smallest true loss that one look finds with the ``wanted`` probability; None: not even 90 %.

    ``degrees``: of freedom with which ``spread`` was measured; 0: it is the true one.
    """
    from scipy.optimize import brentq

    truths = Split(spread**2, 0.0, degrees).truths()

    def found(loss: float) -> float:
        powers = ((power(loss, true.of_launch, rounds, tolerance, alpha), weight) for true, weight in truths)
        return math.fsum(share * weight for share, weight in powers)

    largest = 0.9
    if found(largest) < wanted:
        return None
    if not spread:
        return tolerance
    return float(brentq(lambda loss: found(loss) - wanted, 0, largest, xtol=1e-5))
