"""How much to measure: the rounds, looks and requests with which a gate finds a loss soonest.

A gate may end at every look, so what a design costs is what its gates cost on the average, and what it
finds is what any of its looks finds.  No formula says that of looks at the same growing rounds; the rule
is played instead, always on the same draws, so that designs differ by what they are and not by luck.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

from speculators.benchmark.gate import ALPHA, LOOKS, spent
from speculators.benchmark.noise import POWER, Split
from speculators.benchmark.statistics import t_quantile

if TYPE_CHECKING:
    import numpy

#: Fewer than three rounds have no spread to speak of, more are no sitting.
ROUNDS = range(3, 31)
#: Where looks lie, as shares of the last one's rounds: at the end alone, or earlier too.
SHARES = ((1.0,), (0.6, 1.0), (0.45, 0.7, 1.0), tuple(look / LOOKS[-1] for look in LOOKS))
#: Gates that are played: a power is known to half a per cent.
GATES = 4000


class Cost(NamedTuple):
    """Seconds of a round: what every launch costs before its first counted request, and one request more."""

    launch: float
    request: float

    def of_round(self, requests: int) -> float:
        return self.launch + requests * self.request


class Design(NamedTuple):
    """When to look and how many requests a round has; what that costs and how probably it finds the loss.

    ``seconds``: of the mean gate, be the draft as it was or worse by the loss, whichever takes longer.
    """

    looks: tuple[int, ...]
    requests: int
    seconds: float
    power: float


class Played(NamedTuple):
    """Of many gates: the share that said *regression*, and the mean number of rounds until a verdict."""

    found: float
    rounds: float


def played(
    loss: float,
    spread: float,
    looks: tuple[int, ...],
    tolerance: float,
    alpha: float = ALPHA,
    before: int = 0,
) -> Played:
    """What the gate's rule (``gate.judge``) says of a true relative ``loss``, looking after ``looks`` rounds.

    ``spread``: standard deviation of one round's change of the logarithm.  ``alpha``: of all looks together.
    ``before``: rounds of the stored baseline that it is held against (``figures.Rounds.change``), of as
    large a spread; 0: the base is in the same rounds.
    """
    import numpy

    means, errors = _draws()
    old, of_old = _baseline(before)
    truth, limit = math.log1p(-loss), math.log1p(-tolerance)
    going = numpy.ones(GATES, dtype=bool)  # [gates]
    found, rounds = 0, numpy.full(GATES, looks[-1])
    for look in looks:
        mean = truth + spread * (means[look - 1] - old)
        own = numpy.maximum(errors[look - 1], of_old * math.sqrt(before / look))  # [gates]
        error = spread * numpy.sqrt(own**2 + of_old**2)  # [gates]
        bound = t_quantile(1 - spent(len(looks), alpha), _degrees(look, before)) * error
        worse = going & (mean + bound < 0) & (mean < limit)
        ended = worse | (going & (mean - bound > limit))
        found += int(worse.sum())
        rounds[ended] = look
        going &= ~ended
    return Played(found / GATES, float(rounds.mean()))


def _degrees(new: int, old: int) -> float:
    """Of freedom of Welch's test where both spreads are equal (Satterthwaite); ``old``: 0 for one sample."""
    if not old:
        return new - 1
    return (1 / new + 1 / old) ** 2 / (1 / (new**2 * (new - 1)) + 1 / (old**2 * (old - 1)))


@functools.lru_cache(maxsize=4)
def _baseline(rounds: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The mean of so many draws of a standard normal and its standard error: [gates]; 0 without any."""
    import numpy

    if not rounds:
        return numpy.zeros(GATES), numpy.zeros(GATES)
    draws = numpy.random.default_rng(1).standard_normal((rounds, GATES))
    return draws.mean(axis=0), draws.std(axis=0, ddof=1) / math.sqrt(rounds)


@functools.lru_cache(maxsize=1)
def _draws() -> tuple[numpy.ndarray, numpy.ndarray]:
    """After each round, the mean of a standard normal's draws and its standard error: [rounds, gates]."""
    import numpy

    draws = numpy.random.default_rng(0).standard_normal((ROUNDS.stop - 1, GATES))
    count = numpy.arange(1, ROUNDS.stop)[:, None]
    means = numpy.cumsum(draws, axis=0) / count
    squares = numpy.cumsum(draws**2, axis=0) - count * means**2
    return means, numpy.sqrt(numpy.maximum(squares, 0) / numpy.maximum(count - 1, 1) / count)


def assured(
    loss: float, noise: Split, looks: tuple[int, ...], requests: int, tolerance: float, before: int = 0
) -> float:
    """The power that is to be expected, the noise being known as well as it was measured."""
    return math.fsum(
        weight * played(loss, truth.of_round(requests), looks, tolerance, before=before).found
        for truth, weight in noise.truths()
    )


def cheapest(
    noise: Split,
    cost: Cost,
    loss: float,
    tolerance: float,
    *,
    prompts: int,
    wanted: float = POWER,
    before: int = 0,
) -> Design | None:
    """The design of least mean wall time that finds ``loss`` with the ``wanted`` probability.

    ``prompts``: how many requests a round can have at most; ``before``: as of ``played``.  None: no design
    within reach does.
    """
    best: Design | None = None
    for looks in plans():
        if best and looks[0] * cost.of_round(1) >= best.seconds:
            continue

        def found(requests: int, looks: tuple[int, ...] = looks) -> float:
            return assured(loss, noise, looks, requests, tolerance, before)

        if found(prompts) < wanted:
            continue
        counts = range(1, prompts + 1)
        requests = counts[bisect_left(counts, True, key=lambda count: found(count) >= wanted)]
        spread = noise.of_round(requests)
        rounds = max(played(true, spread, looks, tolerance, before=before).rounds for true in (0.0, loss))
        seconds = rounds * cost.of_round(requests)
        if best is None or seconds < best.seconds:
            best = Design(looks, requests, seconds, found(requests))
    return best


def plans() -> list[tuple[int, ...]]:
    """Every choice of looks that is considered, those that end soonest first."""
    found = {
        tuple(sorted({max(ROUNDS.start, round(share * last)) for share in shares}))
        for last in ROUNDS
        for shares in SHARES
    }
    return sorted(found, key=lambda looks: (looks[-1], looks))
