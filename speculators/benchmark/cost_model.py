"""How fast a draft serves at settings that were not measured: acceptance by position, and the time of a step.

A step of ``B`` requests with ``K`` proposed tokens yields ``B * length(K)`` tokens.  The length for every K
comes from the rates of one K, because position k is accepted in a step whether or not more follow; only the
places where steps begin shift a little.  The time of a step is a sum of parts that cannot be negative, each
with a plain meaning:

* the verifier: a constant (its weights are read once), its B (K + 1) tokens, the B * L entries of the KV
  cache that it reads, and tokens beyond the width at which a GPU has no free arithmetic left
* the draft: K passes, each with a constant, its B tokens and its own B * L entries

Such sums are how serving is reckoned elsewhere, too (Leviathan and others, "Fast inference from transformers
via speculative decoding", 2023; Liu and others, "Optimizing speculative decoding for serving large language
models using goodput", 2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

#: Below so many cells a knee would be fitted to noise.
CELLS_FOR_KNEE = 10


class Cell(NamedTuple):
    """A setting: proposed tokens (0 serves plainly), requests at a time, mean tokens of context."""

    tokens: int
    requests: int
    context: float


class Measured(NamedTuple):
    """One engine step at a setting: its seconds, and the tokens that it gave each request in the mean."""

    cell: Cell
    seconds: float
    length: float

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


class Model(NamedTuple):
    """What predicts a cell: ``rates`` of acceptance by position, and the time of a step."""

    rates: tuple[float, ...]
    time: StepTime

    def speed(self, cell: Cell) -> float:
        """That of ``Measured``, predicted."""
        return cell.requests * length(self.rates, cell.tokens) / self.time.seconds(cell)

    def speedup(self, cell: Cell) -> float:
        """Speed over that of plain serving at the same load."""
        return self.speed(cell) / self.speed(cell._replace(tokens=0))

    def best(self, requests: int, context: float) -> int:
        """The number of proposed tokens that serves fastest; of equals the fewest."""
        speeds = [self.speed(Cell(tokens, requests, context)) for tokens in range(len(self.rates) + 1)]
        return speeds.index(max(speeds))


class HeldOut(NamedTuple):
    """The speed of a measured cell, and its prediction from the others."""

    cell: Cell
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def held_out(measured: Sequence[Measured], rates: Sequence[float], folds: int = 4) -> list[HeldOut]:
    """Every cell predicted from those of the other ``folds - 1`` parts, dealt out in turn.

    Step times of held-out cells are unknown to the prediction; ``rates`` are those of one K at all loads.
    """
    found = []
    for fold in range(folds):
        chosen = [one for place, one in enumerate(measured) if place % folds == fold]
        rest = [one for place, one in enumerate(measured) if place % folds != fold]
        if chosen and len(rest) > 1:
            model = Model(tuple(rates), fit(rest))
            found += [HeldOut(one.cell, one.speed, model.speed(one.cell)) for one in chosen]
    return found
