"""From a cost model to the setting that vLLM takes: how many tokens to propose at each batch size.

``num_speculative_tokens_per_batch_size`` is a list of inclusive ranges (vLLM
``v1/spec_decode/dynamic/utils.py``): the first begins at 1, none overlap, K is 0 where speculation does not
pay.  ``num_speculative_tokens`` is the largest K of them, because vLLM cuts the others down to it.

Any list, also one in which nothing varies, changes how vLLM 0.32 serves: piecewise CUDA graphs in place of
full ones on the V1 model runner (``config/vllm.py:1039``), decode batches no longer padded to one shape
(``v1/core/sched/scheduler.py:1135``), and under data parallelism it is dropped (``config/vllm.py:1058``).  So
one is written only where K varies, and where that gains more than ``WORTH``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Any, NamedTuple

from speculators.benchmark.cost_model import Cell, Load, Measured, Model

SCHEDULE = "num_speculative_tokens_per_batch_size"
#: What a schedule has to gain at some batch size, as a fraction of the speed: what it costs was not measured.
WORTH = 0.02

#: By requests at a time and number of tokens, the logarithm of a factor on the model's speed.
Corrections = Mapping[int, Mapping[int, float]]
NONE: Corrections = MappingProxyType({})


class Alone(NamedTuple):
    """The one K above 0 that loses least against the fastest at each batch size; ``loss``: its largest."""

    tokens: int
    loss: float


class Setting(NamedTuple):
    """``tokens``: K, 0 where speculation should be off; ``schedule``: (first, last, K) of batch sizes.

    ``alone``: what can serve in a schedule's place; None where one K is the fastest at every batch size.
    """

    tokens: int
    schedule: tuple[tuple[int, int, int], ...]
    alone: Alone | None = None

    @property
    def off_from(self) -> int | None:
        """The batch size from which on speculation is off; None where it never is."""
        first, _, tokens = self.schedule[-1]
        return first if tokens == 0 else None

    def at(self, requests: int) -> int:
        """K at a batch size; beyond the last range its K, as vLLM keeps it."""
        return next((tokens for _, last, tokens in self.schedule if requests <= last), self.schedule[-1][2])

    def config(self) -> dict[str, Any]:
        """The keys of ``--speculative-config``; empty where speculation pays nowhere."""
        if not self.tokens:
            return {}
        ranges = {SCHEDULE: [list(one) for one in self.schedule]} if len(self.schedule) > 1 else {}
        return {"num_speculative_tokens": self.tokens, **ranges}


def setting(model: Model, batch_sizes: int, context: float, known: Corrections = NONE) -> Setting:
    """The fastest K at each batch size up to ``batch_sizes``, with ``context`` tokens a request.

    Of equals the fewest, and one K for all where that loses no more than ``WORTH``.  ``known``: of the model,
    see ``corrections``.
    """
    table = speeds(model, batch_sizes, context, known)
    chosen = [(requests, row.index(max(row))) for requests, row in enumerate(table, 1)]
    schedule = []
    for tokens, run in groupby(chosen, key=lambda one: one[1]):
        sizes = [requests for requests, _ in run]
        schedule.append((sizes[0], sizes[-1], tokens))
    alone = _alone(table) if len(schedule) > 1 else None
    if alone is not None and alone.loss <= WORTH:
        schedule = [(1, batch_sizes, alone.tokens)]
    return Setting(max(tokens for _, _, tokens in schedule), tuple(schedule), alone)


def speeds(model: Model, batch_sizes: int, context: float, known: Corrections = NONE) -> list[list[float]]:
    """Tokens a second at 1 to ``batch_sizes`` requests, each with 0, 1, ... proposed tokens.

    The model with its ``known`` corrections, which pass on to neighbours: linearly between numbers of tokens
    first, then between the logarithms of batch sizes.
    """
    import numpy

    depths = range(model.deepest + 1)
    sizes = numpy.arange(1, batch_sizes + 1)  # [batch sizes]
    factors = numpy.zeros((batch_sizes, len(depths)))  # [batch sizes, depths]
    if known:
        by_load = [sorted(row.items()) for _, row in sorted(known.items())]
        rows = [numpy.interp(depths, [k for k, _ in row], [one for _, one in row]) for row in by_load]
        for tokens, column in enumerate(numpy.array(rows).T):  # [loads]
            factors[:, tokens] = numpy.interp(numpy.log(sizes), numpy.log(sorted(known)), column)
    ours = [[model.speed(Cell(tokens, int(size), context)) for tokens in depths] for size in sizes]
    return [[float(one) for one in row] for row in numpy.array(ours) * numpy.exp(factors)]


class Repeated(NamedTuple):
    """At one load, how far measured speeds are from the model's, in logarithms.

    ``common``: in the mean of all numbers of tokens; ``beyond``: each one's difference from that;
    ``share``: how much of ``beyond`` is no chance, 0 to 1.
    """

    common: float
    beyond: Mapping[int, float]
    share: float


def repeated(model: Model, rounds: Sequence[Sequence[Measured]]) -> dict[int, Repeated]:
    """By requests at a time, how the measured speeds differ from the model's, and whether rounds repeat it.

    The fastest of several noisy cells is often only the luckiest.  So the cells of a load and its rounds make
    a two-way layout, in which a slow round is in no difference between cells, and ``share`` is ``1 - 1 / F``
    or 0, with F the variance between cells over that within them: the positive-part rule of Efron and Morris,
    "Stein's estimation rule and its competitors - an empirical Bayes approach", 1973.  Of one round's noise
    nothing is known, and its share is 0.

    ``rounds``: the cells of each, of one context at each load.
    """
    import numpy

    found = {}
    for requests in sorted({one.cell.requests for one in rounds[0]}):
        seen = [
            {one.cell.tokens: math.log(one.speed / model.speed(one.cell)) for one in cells}
            for cells in ([one for one in cells if one.cell.requests == requests] for cells in rounds)
        ]
        depths = sorted(set.intersection(*(set(one) for one in seen)))
        if not depths:
            continue
        off = numpy.array([[one[tokens] for tokens in depths] for one in seen])  # [rounds, depths]
        beyond = off - off.mean(axis=1, keepdims=True)  # [rounds, depths]
        mean = beyond.mean(axis=0)  # [depths]
        share = 0.0
        if len(seen) > 1 and (between := len(seen) * (mean**2).sum()):
            within = ((beyond - mean) ** 2).sum() / (len(seen) - 1)
            share = max(0.0, 1 - float(within / between))
        by_depth = {tokens: float(one) for tokens, one in zip(depths, mean)}
        found[requests] = Repeated(float(off.mean()), by_depth, share)
    return found


def corrections(found: Mapping[int, Repeated]) -> Corrections:
    """The model's, as far as rounds repeat them."""
    return {
        requests: {tokens: one.common + one.share * own for tokens, own in one.beyond.items()}
        for requests, one in found.items()
    }


def _alone(table: Sequence[Sequence[float]]) -> Alone:
    losses = {tokens: max(1 - row[tokens] / max(row) for row in table) for tokens in range(1, len(table[0]))}
    tokens = min(losses, key=losses.__getitem__)
    return Alone(tokens, losses[tokens])


def validated(found: Setting) -> list[tuple[int, int, int]]:
    """The schedule as vLLM's own function takes it; imports vLLM.

    Raises:
        ValueError: vLLM refuses it.
    """
    from vllm.v1.spec_decode.dynamic.utils import validate_and_normalize_dynamic_sd_schedule

    ranges: list[tuple[int, int, int]] = validate_and_normalize_dynamic_sd_schedule(
        [list(one) for one in found.schedule]
    )
    return ranges


class Regret(NamedTuple):
    """At one load: the recommended K, the best measured one, and what the first loses against it.

    ``loss``: None where the recommended K was not measured.
    """

    requests: int
    context: float
    recommended: int
    best: int
    loss: float | None


def regrets(chosen: Setting, measured: Sequence[Measured]) -> Iterable[Regret]:
    """For each load at which several K were measured, how good that of ``chosen`` really is."""
    loads: dict[Load, dict[int, float]] = {}
    for one in measured:
        loads.setdefault(one.cell.load, {})[one.cell.tokens] = one.speed
    for (requests, context), speeds in sorted(loads.items()):
        if len(speeds) < 2:
            continue
        best, recommended = max(speeds, key=speeds.__getitem__), chosen.at(requests)
        loss = 1 - speeds[recommended] / speeds[best] if recommended in speeds else None
        yield Regret(requests, context, recommended, best, loss)
