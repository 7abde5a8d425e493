"""Row sets of train-time-test, made in the loader: which rows are asked, and what they are taught by.

Everything with a size that depends on the data is decided here, on the CPU, so that a step has
fixed shapes and waits for nobody.  Two sets matter (numbers as in ``training.ttt``):

* **taught tokens** g, M of them: the generated tokens that some row of their document guesses.  At
  step k token g is guessed by row g - 2 - k, and the verifier's opinion on it is its state at g - 1:
  one opinion for all K guesses, which is why losses go token by token;
* **asked rows** r, N of them: those that guess a taught token at some step.  A row that guesses at
  step k >= 1 needs its own earlier steps, whether these guess anything or not, so one set serves all
  steps; at the last step it is K - 1 rows a supervised span larger than it had to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from speculators.models.layout import Run, layout_of
from speculators.models.unroll import Choice, Plan
from speculators.training.packing import PackedSequence
from speculators.training.rows import supervised_rows

#: From this share of asked rows on all rows are asked: a few useless rows cost less than gathers.
DENSE_FROM = 0.9


class Taught(NamedTuple):
    """The M taught tokens of a sequence and where their guesses are.

    At a step at which no row guesses a token, ``places`` and ``counted`` are 0.
    """

    opinions: torch.Tensor  # [M] int64: rows of the verifier's state on each token
    places: torch.Tensor  # [K, M] int64: which asked row guesses it
    counted: torch.Tensor  # [K, M] float32: 1 where one does


class Asked(NamedTuple):
    """What a batch holds beside its sequence."""

    plan: Plan
    taught: Taught


def ask(sequence: PackedSequence, steps: int, dense_from: float = DENSE_FROM) -> Asked:
    """The row sets of ``sequence`` for ``steps`` train-time-test steps, on the CPU.

    ``dense_from``: share of asked rows from which on all rows are.
    """
    sequence = sequence._replace(**{name: getattr(sequence, name).cpu() for name in LOOKED_AT})
    size = len(sequence.token_ids)
    guessing = [supervised_rows(sequence, step) for step in range(steps)]  # K x [R]
    asked = torch.zeros(size, dtype=torch.bool)
    for rows in guessing:
        asked[rows] = True
    if asked.sum() >= dense_from * size:
        asked[:] = True
    return Asked(_plan(sequence, steps, asked), taught_by(guessing, asked))


LOOKED_AT = ("token_ids", "document_ids", "positions", "supervised")


def _plan(sequence: PackedSequence, steps: int, asked: torch.Tensor) -> Plan:
    size = len(asked)
    last = size - 1
    everything = layout_of([Run(span, span) for span in sequence.documents])
    choice = None
    if not asked.all():
        rows = asked.nonzero().flatten()  # [N]
        choice = Choice(rows, *(rows + torch.arange(steps)[:, None]).unique(return_inverse=True))
    return Plan(
        steps=steps,
        # Rows near a document's end read a token of the next one; they guess nothing, and no other
        # row sees them.
        read=(torch.arange(size + steps - 1) + 1).clamp(max=last),
        positions=sequence.positions,
        everything=everything,
        asked=everything if choice is None else layout_of(_runs(sequence, choice.rows)),
        choice=choice,
    )


def _runs(sequence: PackedSequence, rows: torch.Tensor) -> list[Run]:
    """Asked rows [N] as consecutive rows of one document, with the keys up to the last of them."""
    owner = sequence.document_ids[rows]
    breaks = (rows.diff() != 1) | (owner.diff() != 0)  # [N - 1]
    edges = [0, *(breaks.nonzero().flatten() + 1).tolist(), len(rows)] if len(rows) else []
    starts = [sequence.documents[number][0] for number in owner.tolist()]
    return [Run((first, end), (starts[first], int(rows[end - 1]) + 1)) for first, end in pairwise(edges)]


def taught_by(guessing: Sequence[torch.Tensor], asked: torch.Tensor) -> Taught:
    """The tokens guessed by ``guessing``, the rows of each step, K x [R], all of them ``asked`` [S] bool."""
    tokens = torch.cat([rows + 2 + step for step, rows in enumerate(guessing)]).unique()  # [M], ascending
    compact = asked.cumsum(0) - 1  # [S]: which asked row a row is
    places = torch.zeros(len(guessing), len(tokens), dtype=torch.int64)
    counted = torch.zeros(len(guessing), len(tokens))
    for step, rows in enumerate(guessing):
        where = torch.searchsorted(tokens, rows + 2 + step)
        places[step, where], counted[step, where] = compact[rows], 1.0
    return Taught(opinions=tokens - 1, places=places, counted=counted)
