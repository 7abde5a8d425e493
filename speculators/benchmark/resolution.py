"""What this machine can see: the noise of an arm that was measured against itself, and what follows from it.

The figures answer what one asks before a gate: how small a loss is found here with the rounds that the
recipe has, and how many rounds of how many requests find a given loss soonest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from speculators.benchmark.comparison import ENOUGH_ROUNDS
from speculators.benchmark.design import Cost, Design, cheapest
from speculators.benchmark.gate import spent
from speculators.benchmark.noise import POWER, Split, smallest_loss, split
from speculators.benchmark.pairs import Pair, pair_up
from speculators.benchmark.rounds import BASE, DRAFT, PLAIN
from speculators.benchmark.statistics import geometric_mean, mean_ratio, spread_of

SCHEMA = "speculators/noise/v1"
#: Losses that designs are shown for.
LOSSES = (0.04, 0.05, 0.08, 0.10)

#: What a gate serves in each round: with its base in them, and against a stored baseline.
TOGETHER, AGAINST_STORED = (PLAIN, DRAFT, BASE), (PLAIN, DRAFT)


class Seen(NamedTuple):
    """A number of rounds as measured, and the smallest loss that they find with the wanted probability.

    ``stored``: against a stored baseline of ``ENOUGH_ROUNDS``, whose own noise is added.
    """

    rounds: int
    loss: float | None
    stored: float | None


def resolution(
    benchmark: dict[str, Any], looks: Sequence[int], tolerance: float, prompts: int, wanted: float = POWER
) -> dict[str, Any]:
    """The noise in a ``benchmark`` document whose base arm is the draft itself.

    ``looks``: of the recipe's gate; ``tolerance``: of speed; ``prompts``: how many requests a round can have;
    ``wanted``: the probability with which losses are to be found.

    Raises:
        ValueError: fewer than two rounds, or loads without a common request.
    """
    pairs = pair_up(benchmark["samples"], DRAFT, plain=BASE)
    rounds = sorted({pair.round for pair in pairs})
    ratios = [geometric_mean([pair.speedup or math.nan for pair in pairs if pair.round == r]) for r in rounds]
    logs = [math.log(ratio) for ratio in ratios]
    noise, cost = split(table(pairs)), cost_of(benchmark, TOGETHER)
    alpha, spread = spent(len(looks)), spread_of(logs)

    def seen(look: int) -> Seen:
        with_the_old = math.sqrt(1 + look / ENOUGH_ROUNDS)  # the variances of both means add up
        together, stored = (
            smallest_loss(spread * wider, look, tolerance, alpha, wanted, degrees=len(logs) - 1)
            for wider in (1.0, with_the_old)
        )
        return Seen(look, together, stored)

    return {
        "schema": SCHEMA,
        "rounds": len(rounds),
        "requests": benchmark["benchmark"]["requests"],
        "ratio": mean_ratio(ratios)._asdict(),
        "spread": spread,
        "between": noise.of_launch,
        "within": math.sqrt(noise.within),
        "launch_seconds": cost.launch,
        "request_seconds": cost.request,
        "baseline_rounds": ENOUGH_ROUNDS,
        "tolerance": tolerance,
        "alpha": alpha,
        "wanted": wanted,
        "seen": [seen(look)._asdict() for look in looks],
        "designs": [
            {"loss": loss, "design": together and together._asdict(), "stored": stored and stored._asdict()}
            for loss, together, stored in designs(
                noise, cost, cost_of(benchmark, AGAINST_STORED), tolerance, prompts, wanted
            )
        ],
    }


def designs(
    noise: Split, together: Cost, stored: Cost, tolerance: float, prompts: int, wanted: float
) -> Iterator[tuple[float, Design | None, Design | None]]:
    """For each loss beyond the tolerance the designs of least wall time that find it as surely as ``wanted``.

    The first with the base in the same rounds, the second against a stored baseline of ``ENOUGH_ROUNDS``
    rounds of as many requests; each with the cost of its rounds.
    """

    def found(loss: float, cost: Cost, before: int) -> Design | None:
        return cheapest(noise, cost, loss, tolerance, prompts=prompts, wanted=wanted, before=before)

    for loss in LOSSES:
        if loss > tolerance:
            yield loss, found(loss, together, 0), found(loss, stored, ENOUGH_ROUNDS)


def table(pairs: Sequence[Pair]) -> list[list[float]]:
    """For each round the log ratio of speeds of every request, in one fixed order: [rounds][prompts].

    Both arms answer with the same tokens, so a request's speeds are in the ratio of its seconds.  A request
    is one prompt at every load, as in ``cost_of``: the mean over its loads, so that what a load of one launch
    has in common counts as the launch's.
    """
    rounds: dict[int, dict[str, list[float]]] = {}
    for pair in pairs:
        base = {row["id"]: row["seconds"] for row in pair.plain["requests"]}
        for row in pair.draft["requests"]:
            if row["id"] in base:
                value = math.log(base[row["id"]] / row["seconds"])
                rounds.setdefault(pair.round, {}).setdefault(row["id"], []).append(value)
    loads = len({pair.concurrency for pair in pairs})
    everywhere = [{name for name, found in one.items() if len(found) == loads} for one in rounds.values()]
    common = sorted(set.intersection(*everywhere)) if everywhere else []
    return [[math.fsum(rounds[number][name]) / loads for name in common] for number in sorted(rounds)]


def cost_of(benchmark: dict[str, Any], arms: Sequence[str]) -> Cost:
    """Seconds of a round of the ``arms``: until the requests can be counted, and of one request of each.

    A request is one prompt at every load.  The client's own start belongs to a launch.
    """
    launches = [one for one in benchmark["rounds"] if one["arm"] in arms]
    whole = sum(one["seconds"] for one in launches)
    loads = sum(one["wall_seconds"] for one in benchmark["samples"] if one["arm"] in arms)
    rounds = len({one["round"] for one in launches})
    return Cost((whole - loads) / rounds, loads / rounds / benchmark["benchmark"]["requests"])
