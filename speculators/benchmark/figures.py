"""The figures that are compared between two measurements, each with its change and the verdict on that.

Speedups are compared, never throughputs: the plain arm of each sitting is its control, and without it two
sittings of one machine differ by more than the losses that matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from speculators.benchmark.gate import ALPHA, OK, REGRESSION, UNDECIDED, Judged, judge, spent
from speculators.benchmark.measurement import (
    ALGORITHM,
    ALONE,
    TOKENS,
    Answers,
    Measurement,
    log_lengths,
    log_speedups,
    pooled_length,
)
from speculators.benchmark.noise import smallest_loss
from speculators.benchmark.rounds import FREE_ARMS
from speculators.benchmark.statistics import Estimate, mean_estimate, spread_of, welch

SPEEDUP, STEP = "speedup", "speed of a step"
LENGTH, LENGTH_BY_PROMPT = "acceptance length", "acceptance length, same prompts"
LENGTH_OF_SEVERAL = "acceptance length, several requests"
ANSWERS, LOSSLESS = "answers as before", "answers as plain serving's"


class Limits(NamedTuple):
    """The recipe's ``benchmark.gate``: the losses that are still none, and the chance of a false alarm.

    ``prompt_acceptance``: of the acceptance on the very same prompts, one request at a time.
    ``outputs``: whether changed answers are a regression.
    """

    speed: float = 0.03
    acceptance: float = 0.02
    prompt_acceptance: float = 0.005
    alpha: float = ALPHA
    outputs: bool = True


class Figure(NamedTuple):
    """One quantity in both; the change and its one-sided bounds are relative.

    ``concurrency``: None over all loads; ``low``, ``high``: None where the test has no interval;
    ``gated``: whether the verdict rests on it; ``rounds``: whether more rounds can make it surer.
    """

    name: str
    concurrency: int | None
    old: float
    new: float
    change: float
    low: float | None
    high: float | None
    verdict: str
    gated: bool
    rounds: bool


class Together(NamedTuple):
    """Old and new were measured in the same rounds, so that what a round has in common is in both.

    ``spread``: the standard deviation that a round's log ratio of speeds is known to have on this machine,
    0 where it is not.
    """

    spread: float = 0.0


class Rounds(NamedTuple):
    """A logarithm of each round of both; ``together``: None where they are not the same rounds."""

    old: Sequence[float]
    new: Sequence[float]
    together: Together | None = None

    def less(self, other: Rounds) -> Rounds:
        """The difference, round by round."""
        old, new = (
            [a - b for a, b in zip(*sides)] for sides in ((self.old, other.old), (self.new, other.new))
        )
        return Rounds(old, new, self.together)

    def change(self) -> Estimate:
        """New less old.

        New rounds that agree better than those of this machine are known to do so by chance.  What is known
        is the base line's own scatter, or, of the same rounds, that of an arm against itself.
        """
        if self.together is None:
            return welch(self.new, self.old, known=spread_of(self.old))
        return mean_estimate([new - old for old, new in zip(self.old, self.new)], self.together.spread)


def compared(
    old: Measurement, new: Measurement, limits: Limits, alpha: float, together: Together | None = None
) -> Iterator[Figure]:
    """Every figure that both measured: those that are gated, and what explains them."""
    loads = common_loads(old, new)
    speeds = Rounds(log_speedups(old, loads), log_speedups(new, loads), together)
    yield over_rounds(SPEEDUP, None, speeds, limits.speed, alpha)
    for load in loads if len(loads) > 1 else []:
        # Not gated, but a reader looks for the worst: the chance of a false alarm is that of all together.
        at_load = Rounds(log_speedups(old, [load]), log_speedups(new, [load]), together and Together())
        yield over_rounds(SPEEDUP, load, at_load, limits.speed, alpha / len(loads), gated=False)
    if not proposed_otherwise(old, new):
        yield from _acceptance(old, new, speeds, limits, alpha)
    yield from outputs(old.answers, new.answers, alpha, gated=limits.outputs)


def _acceptance(
    old: Measurement, new: Measurement, speeds: Rounds, limits: Limits, alpha: float
) -> Iterator[Figure]:
    """What was accepted, and the speed that is left of ``speeds`` without it: that of a step."""
    loads, alike = common_loads(old, new), speeds.together and Together()
    by_prompt = on_same_prompts(old.answers, new.answers, limits.prompt_acceptance, alpha)
    lengths = Rounds(log_lengths(old, loads), log_lengths(new, loads), alike)
    if lengths.old and lengths.new:
        yield over_rounds(LENGTH, None, lengths, limits.acceptance, alpha, gated=by_prompt is None)
        if not proposed_at_times(old):
            yield over_rounds(STEP, None, speeds.less(lengths), limits.speed, alpha, gated=False)
    if by_prompt is None:
        return
    yield by_prompt
    # Prompts are compared one request at a time; what breaks in batches alone is seen in the other loads.
    several = [load for load in loads if load != ALONE]
    lengths = Rounds(log_lengths(old, several), log_lengths(new, several), alike)
    if lengths.old and lengths.new:
        # Beside speed it is a second figure over rounds that may raise an alarm, so it has half the chance.
        found = over_rounds(LENGTH_OF_SEVERAL, None, lengths, limits.acceptance, alpha / 2)
        # Batches differ from launch to launch, so that doubt of it would hold up most gates.
        yield found._replace(gated=found.verdict == REGRESSION)


def proposed_at_times(one: Measurement) -> bool:
    """Whether the method leaves steps without a proposal, which the engine does not count."""
    return one.settings.get(ALGORITHM) in FREE_ARMS


def proposed_otherwise(old: Measurement, new: Measurement) -> bool:
    """Whether acceptance lengths are of different quantities: no other K reaches as far, and of a method that
    proposes at times only those steps are counted in which it does.
    """
    ways = [
        (one.settings.get(TOKENS), one.settings.get(ALGORITHM) if proposed_at_times(one) else None)
        for one in (old, new)
    ]
    return ways[0] != ways[1]


def visible_loss(
    old: Measurement, new: Measurement, limits: Limits, alpha: float, together: Together | None = None
) -> float | None:
    """The smallest loss of speed that is found four times in five with this noise and so many rounds."""
    loads = common_loads(old, new)
    rounds = Rounds(log_speedups(old, loads), log_speedups(new, loads), together)
    count = len(rounds.new)
    return smallest_loss(rounds.change().error * math.sqrt(count), count, limits.speed, alpha)


def common_loads(old: Measurement, new: Measurement) -> list[int]:
    """Concurrencies that were measured in both."""
    return sorted({one.concurrency for one in old.loads} & {one.concurrency for one in new.loads})


def over_rounds(
    name: str,
    concurrency: int | None,
    rounds: Rounds,
    tolerance: float,
    alpha: float,
    *,
    gated: bool = True,
) -> Figure:
    """A figure that every round of both has."""
    judged = judge(rounds.change(), tolerance, alpha)
    old, new = (math.exp(math.fsum(side) / len(side)) for side in (rounds.old, rounds.new))
    return _judged(name, concurrency, old, new, judged, gated=gated, rounds=True)


def _judged(
    name: str, concurrency: int | None, old: float, new: float, judged: Judged, *, gated: bool, rounds: bool
) -> Figure:
    change, low, high, verdict = judged
    return Figure(name, concurrency, old, new, change, low, high, verdict, gated, rounds)


def on_same_prompts(
    old: Sequence[Answers], new: Sequence[Answers], tolerance: float, alpha: float
) -> Figure | None:
    """The change of the acceptance length over the prompts that both counted; None without two of them.

    Greedy and alone in its batch, a prompt gives the same counts at every launch; what scatters is by how
    much prompts change.  So prompts are the unit, and more rounds make nothing surer.
    """
    both = [
        ((one.drafting.drafts, one.drafting.accepted), (other.drafting.drafts, other.drafting.accepted))
        for one, other in _same_prompts(old, new)
        if one.drafting is not None and other.drafting is not None
    ]
    if len(both) < 2:
        return None
    before, after = ([sides[which] for sides in both] for which in (0, 1))
    judged = judge(pooled_change(before, after), tolerance, alpha)
    lengths = pooled_length(before), pooled_length(after)
    return _judged(LENGTH_BY_PROMPT, ALONE, *lengths, judged, gated=True, rounds=False)


def _same_prompts(old: Sequence[Answers], new: Sequence[Answers]) -> list[tuple[Answers, Answers]]:
    later = {one.prompt: one for one in new}
    return [(one, later[one.prompt]) for one in old if one.prompt in later]


def pooled_change(old: Sequence[tuple[int, int]], new: Sequence[tuple[int, int]]) -> Estimate:
    """The change of the logarithm of the pooled acceptance length; (drafts, accepted) of the same prompts.

    A ratio of sums has the error of its linearised parts (Cochran, "Sampling Techniques", 3rd edition,
    1977, section 6.4); pairing prompts takes out what they differ by of themselves.
    """
    parts = [after - before for before, after in zip(_influences(old), _influences(new))]
    change = math.log(pooled_length(new)) - math.log(pooled_length(old))
    error = mean_estimate(parts).error * len(parts)  # of the sum of the parts
    return Estimate(change, error, len(parts) - 1)


def _influences(counts: Sequence[tuple[int, int]]) -> list[float]:
    """How far each prompt moves the logarithm of the pooled acceptance length, to first order."""
    drafts = sum(one for one, _ in counts)
    tokens = sum(one + accepted for one, accepted in counts)
    return [(one + accepted) / tokens - one / drafts for one, accepted in counts]


def outputs(old: Sequence[Answers], new: Sequence[Answers], alpha: float, *, gated: bool) -> Iterator[Figure]:
    """Whether the answers are those of before, and those of plain serving as often as before.

    Even plain serving need not repeat itself; so changed answers count only beyond what plain serving
    changes between its own launches.
    """
    both = _same_prompts(old, new)
    if not both:
        return
    changed = sum(not set(one.texts) & set(other.texts) for one, other in both)
    restless = sum(not (one.stable and other.stable) for one, other in both)
    yield _shares(ANSWERS, len(both), restless, changed, alpha, gated)
    before, after = (sum(not sides[which].equal for sides in both) for which in (0, 1))
    restless = sum(not other.stable for _, other in both)
    yield _shares(LOSSLESS, len(both), before, after, alpha, gated, explained=restless)


def _shares(
    name: str, count: int, old: int, new: int, alpha: float, gated: bool, explained: int = 0
) -> Figure:
    """The shares of prompts that are left when ``old`` and ``new`` of ``count`` fall out.

    ``explained``: so many may fall out for another reason than the one that is asked for.  One more than is
    explained comes about by chance in half of all cases, whatever ``count``; so it is no loss yet, unless
    nothing is left.
    """
    explained = max(old, explained)
    verdict = OK if new <= explained or new <= explained + 1 < count else UNDECIDED
    if chance_of_more(explained, new, count) < alpha:
        verdict = REGRESSION
    before, after = 1 - old / count, 1 - new / count
    return Figure(name, ALONE, before, after, after - before, None, None, verdict, gated, rounds=False)


def tells_changed(prompts: int, looks: int) -> bool:
    """Whether so many answers, all of them changed, are a regression at the first of ``looks``."""
    return chance_of_more(0, prompts, prompts) < spent(looks)


def chance_of_more(old: int, new: int, count: int) -> float:
    """Probability of ``new`` of ``count`` or more, where as many as in both are spread by chance.

    Fisher's exact test, one-sided; the same as ``scipy.stats.fisher_exact``.
    """
    total = old + new
    ways = (
        math.comb(count, among_new) * math.comb(count, total - among_new)
        for among_new in range(new, min(count, total) + 1)
    )
    return sum(ways) / math.comb(2 * count, total)
