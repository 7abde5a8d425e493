"""How fast a draft serves at settings that were not measured: acceptance by position, and the time of a step.

A step of ``B`` requests with ``K`` proposed tokens yields ``B * length(K)`` tokens.  The length for every K
comes from the rates of one K, because position k is accepted in a step whether or not more follow; only the
places where steps begin shift a little.  Rates are those of the same load where it has steps enough: other
lengths of context are other prompts, and no prompt is accepted like another.  The time of a step is a sum of
parts that cannot be negative, each with a plain meaning:

* the verifier: a constant (its weights are read once), its B (K + 1) tokens, the B * L entries of the KV
  cache that it reads, and tokens beyond the width at which a GPU has no free arithmetic left
* the draft: K passes, each with a constant, its B tokens and its own B * L entries

Such sums are how serving is reckoned elsewhere, too (Leviathan and others, "Fast inference from transformers
via speculative decoding", 2023; Liu and others, "Optimizing speculative decoding for serving large language
models using goodput", 2024).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from speculators.serving.metrics import SpecCounters, pooled

#: Below so many cells a knee would be fitted to noise.
CELLS_FOR_KNEE = 10
#: With fewer a load's own rates are less sure than those of all: the standard error of a rate is up to 0.05.
STEPS_FOR_RATES = 100

#: Requests at a time and mean tokens of context.
Load = tuple[int, float]


class Cell(NamedTuple):
    """A setting: proposed tokens (0 serves plainly), requests at a time, mean tokens of context."""

    tokens: int
    requests: int
    context: float

    @property
    def load(self) -> Load:
        return self.requests, self.context


class Measured(NamedTuple):
    """One engine step at a setting: its seconds, and the tokens that it gave each request in the mean.

    ``counted``: what was accepted at each position over all its steps; None in plain serving.
    """

    cell: Cell
    seconds: float
    length: float
    counted: SpecCounters | None = None

    @property
    def speed(self) -> float:
        """Output tokens a second while answers are being written."""
        return self.cell.requests * self.length / self.seconds


class StepTime(NamedTuple):
    """Seconds of each part; ``knee``: the tokens of a step beyond which ``beyond`` is paid as well."""

    constant: float
    token: float
    cache: float
    draft: float
    draft_token: float
    draft_cache: float
    beyond: float
    knee: float

    def seconds(self, cell: Cell) -> float:
        """The time of one step at ``cell``."""
        return math.fsum(part * count for part, count in zip(self[:-1], parts(cell, self.knee)))


def parts(cell: Cell, knee: float) -> tuple[float, ...]:
    """How often each part of the time is paid in a step, in the order of ``StepTime``."""
    tokens, requests, context = cell
    width = requests * (tokens + 1)
    return (
        1.0,
        float(width),
        requests * context,
        float(tokens),
        float(tokens * requests),
        tokens * requests * context,
        max(0.0, width - knee),
    )


def length(rates: Sequence[float], tokens: int) -> float:
    """The acceptance length with ``tokens`` proposed, from the unconditional rates of each position.

    Raises:
        ValueError: more tokens than rates.
    """
    if tokens > len(rates):
        raise ValueError(f"rates of {len(rates)} positions say nothing of {tokens} proposed tokens")
    return 1 + math.fsum(rates[:tokens])


def fit(measured: Sequence[Measured]) -> StepTime:
    """The non-negative parts of least squared *relative* error (Lawson and Hanson, 1974: NNLS).

    Raises:
        ValueError: fewer than two cells.
    """
    if len(measured) < 2:
        raise ValueError("a fit needs at least two measured cells")
    knees = [math.inf]
    if len(measured) >= CELLS_FOR_KNEE:
        widths = {cell.requests * (cell.tokens + 1) for cell, *_ in measured}
        knees += [float(width) for width in sorted(widths)[1:-1]]
    return min((_fit(measured, knee) for knee in knees), key=lambda found: found[0])[1]


def _fit(measured: Sequence[Measured], knee: float) -> tuple[float, StepTime]:
    """The relative residual and the parts for one knee."""
    import numpy
    from scipy.optimize import nnls

    seconds = numpy.array([one.seconds for one in measured])  # [cells]
    table = numpy.array([parts(one.cell, knee) for one in measured]) / seconds[:, None]  # [cells, parts]
    # Parts differ by orders of magnitude; scaled to one the solver treats them alike.
    scale = numpy.maximum(table.max(axis=0), 1e-300)  # [parts]
    found, residual = nnls(table / scale, numpy.ones(len(measured)))
    return float(residual), StepTime._make([*(float(one) for one in found / scale), knee])


class Acceptance(NamedTuple):
    """Unconditional rates of each position: ``pooled`` over all loads, ``by_load`` where one has its own."""

    pooled: tuple[float, ...]
    by_load: Mapping[Load, tuple[float, ...]] = MappingProxyType({})

    def at(self, load: Load) -> tuple[float, ...]:
        """The rates at ``load``: its own, or those of this context at one request at a time, or of all.

        Only one request at a time tells lengths of context apart; in a batch their prompts are the same.
        """
        _, context = load
        return self.by_load.get(load) or self.by_load.get((1, context)) or self.pooled


def acceptance(measured: Sequence[Measured]) -> Acceptance:
    """The rates that the deepest K counted at each load; empty where nothing was counted."""
    pooled_rates, _ = _deepest(measured)
    by_load = {}
    for load in {one.cell.load for one in measured}:
        rates, steps = _deepest([one for one in measured if one.cell.load == load])
        if steps >= STEPS_FOR_RATES:
            by_load[load] = _extended(rates, pooled_rates)
    return Acceptance(pooled_rates, by_load)


def _deepest(measured: Sequence[Measured]) -> tuple[tuple[float, ...], int]:
    """The rates of the largest K of those cells, and the steps that they rest on."""
    counted = [one.counted for one in measured if one.counted is not None]
    positions = max((len(one.per_position) for one in counted), default=0)
    total = pooled([one for one in counted if len(one.per_position) == positions])
    return total.per_position_rates or (), total.drafts


def _extended(rates: tuple[float, ...], pooled_rates: tuple[float, ...]) -> tuple[float, ...]:
    """``rates`` with the positions that only other loads counted, each falling off as it does there."""
    known = len(rates)
    if not known or not pooled_rates[known - 1]:
        return rates + pooled_rates[known:]
    last = rates[-1] / pooled_rates[known - 1]
    return rates + tuple(last * one for one in pooled_rates[known:])


class Model(NamedTuple):
    """What predicts a cell: what is accepted, and the time of a step."""

    acceptance: Acceptance
    time: StepTime

    @property
    def deepest(self) -> int:
        """The most proposed tokens of which anything is known."""
        return len(self.acceptance.pooled)

    def speed(self, cell: Cell) -> float:
        """That of ``Measured``, predicted."""
        return cell.requests * length(self.acceptance.at(cell.load), cell.tokens) / self.time.seconds(cell)

    def speedup(self, cell: Cell) -> float:
        """Speed over that of plain serving at the same load."""
        return self.speed(cell) / self.speed(cell._replace(tokens=0))


class HeldOut(NamedTuple):
    """The speed of a measured cell, and its prediction from the others."""

    cell: Cell
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def held_out(measured: Sequence[Measured], known: Acceptance | None = None, folds: int = 4) -> list[HeldOut]:
    """Every cell predicted from the cells of the other ``folds - 1`` parts.

    Dealt as a Latin square: each part takes another K of each load, so that no load is missing as a whole and
    the widest one is not extrapolated.  Of a held-out cell nothing is known to its prediction, neither its
    step time nor what it accepted (``known``: acceptance that is known from elsewhere).  Not predicted is
    one that proposes more tokens than all others, or whose step would take no time by a fit to too few.
    """
    depths = sorted({one.cell.tokens for one in measured})
    loads = sorted({one.cell.load for one in measured})
    dealt: list[list[Measured]] = [[] for _ in range(folds)]
    for one in measured:
        dealt[(depths.index(one.cell.tokens) + loads.index(one.cell.load)) % folds].append(one)
    found = []
    for chosen in dealt:
        rest = [one for one in measured if one not in chosen]
        if len(rest) < 2:
            continue
        model = Model(known or acceptance(rest), fit(rest))
        predictable = [
            one for one in chosen if one.cell.tokens <= model.deepest and model.time.seconds(one.cell) > 0
        ]
        found += [HeldOut(one.cell, one.speed, model.speed(one.cell)) for one in predictable]
    return found
