"""One optimiser step: a window's gradient over all its sequences and ranks, clipped and applied.

Whatever a step reads of the device is read once, after its last sequence.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import torch

from speculators.datagen.shards import Document
from speculators.errors import StageError
from speculators.training.objective import Batch, Objective
from speculators.training.optimiser import Optimiser
from speculators.training.packing import pack
from speculators.training.parallel import exchanging, whole
from speculators.training.ranks import ALONE, Ranks, balanced
from speculators.training.run_plan import Window


class WindowLoss(NamedTuple):
    """A window's loss, and what it is made of, over all ranks."""

    loss: float
    by_step: list[float]  # mean divergence of a supervised row at each draft position
    supervised: int  # rows at the first position
    tokens: int


class Share(NamedTuple):
    """The part of a window that one rank runs.

    ``idle``: the window has fewer sequences than there are ranks; this one runs some of another's for
    nothing, because every rank has to take part in the exchange.
    """

    batches: list[Batch]
    idle: bool = False

    def to(self, device: torch.device) -> Share:
        """The same share on ``device``."""
        return self._replace(batches=[batch.to(device) for batch in self.batches])

    def pinned(self) -> Share:
        """The same share in memory that a GPU fetches from while the CPU goes on."""
        return self._replace(batches=[batch.pinned() for batch in self.batches])


def share_of(
    window: Window,
    objective: Objective,
    documents: Sequence[Document],
    seed: int,
    epoch: int,
    ranks: Ranks = ALONE,
) -> Share:
    """This rank's sequences of ``window``, on the CPU: as many tokens as the others', as far as that goes."""
    tokens = [sum(len(documents[number].token_ids) for number in numbers) for numbers in window]
    own = balanced(tokens, ranks.count)[ranks.index]
    shortest = min(range(len(window)), key=lambda number: (tokens[number], number))
    batches = [make_batch(objective, documents, window[number], seed, epoch) for number in own or [shortest]]
    return Share(batches, idle=not own)


def make_batch(
    objective: Objective, documents: Sequence[Document], numbers: Sequence[int], seed: int, epoch: int
) -> Batch:
    """Pack the numbered documents; what the objective draws depends on seed, epoch and documents only."""
    draws = torch.Generator().manual_seed(random.Random(f"{seed}/{epoch}/{numbers}").getrandbits(63))
    sequence = pack([documents[number] for number in numbers], objective.verifier.embedding.dtype)
    return objective.batch(sequence, draws)


def backward(
    objective: Objective, batches: Sequence[Batch], ranks: Ranks = ALONE, *, idle: bool = False
) -> WindowLoss:
    """Add the window's gradient to the draft's parameters: on all ranks together that of all their batches.

    The loss is the sum of all rows' divergences, weighted by the objective from the supervised rows
    of the whole window.  An ``idle`` rank's batches count for nothing.

    Raises:
        StageError: the loss is not finite; the message names the documents.
    """
    figures = added_up(objective, batches, ranks, idle=idle)
    return window_loss(figures.tolist(), batches, ranks)


def added_up(objective: Objective, batches: Sequence[Batch], ranks: Ranks, *, idle: bool) -> torch.Tensor:
    """Add the window's gradient; returns its figures, on the device.

    [1 + K + 2 + N] float64: the loss, each position's mean divergence, rows and tokens; the divergence of
    each of this rank's N ``batches``.
    """
    device = objective.verifier.embedding.device
    counted = [[*batch.supervised, len(batch.sequence.token_ids)] for batch in batches]
    counts = torch.tensor(counted).sum(dim=0) * (not idle)  # [K + 1]
    counts = ranks.sum(counts.to(device))
    supervised = counts[:-1]  # [K]
    weights = objective.weights(supervised)  # [K]
    own = torch.zeros_like(weights) if idle else weights
    divergences = []
    for number, batch in enumerate(batches, start=1):
        with exchanging(objective.draft, last=number == len(batches)):
            divergences.append(objective.backward(batch, own))
    local = torch.stack(divergences)  # [N, K]
    sums = ranks.sum(local.sum(dim=0) * (not idle))  # [K]
    means = sums / supervised.clamp(min=1)  # [K]
    return torch.cat([(weights * sums).sum()[None], means, counts[[0, -1]], local.sum(dim=1)])


def window_loss(figures: Sequence[float], batches: Sequence[Batch], ranks: Ranks) -> WindowLoss:
    """What ``added_up`` found, read.

    Raises:
        StageError: the loss is not finite; the message names the documents.
    """
    loss, *others = figures
    by_sequence = others[-len(batches) :]
    *by_step, rows, tokens = others[: -len(batches)]
    if not math.isfinite(loss):
        broken = [batch for batch, value in zip(batches, by_sequence) if not math.isfinite(value)]
        raise not_finite("loss", loss, broken, batches, ranks)
    return WindowLoss(loss, by_step, int(rows), int(tokens))


def optimiser_step(
    objective: Objective,
    share: Share,
    optimiser: Optimiser,
    rate: float,
    gradient_clip: float,
    ranks: Ranks = ALONE,
) -> tuple[WindowLoss, float]:
    """One update at ``rate``: returns the window's loss and the gradient norm before clipping.

    Raises:
        StageError: loss or gradient is not finite; nothing was updated.
    """
    optimiser.zero_grad()
    found = added_up(objective, share.batches, ranks, idle=share.idle)
    length = whole(torch.nn.utils.clip_grad_norm_(objective.draft.parameters(), gradient_clip))
    norm, *figures = torch.cat([length[None], found]).tolist()
    result = window_loss(figures, share.batches, ranks)
    if not math.isfinite(norm):
        raise not_finite("gradient norm", norm, [], share.batches, ranks)
    optimiser.step(rate)
    return result, norm


def not_finite(
    what: str, value: float, broken: Sequence[Batch], batches: Sequence[Batch], ranks: Ranks
) -> StageError:
    """The error that names the documents of the ``broken`` batches of all ranks, or of the whole window."""
    named = ranks.gather([[list(batch.sequence.ids) for batch in group] for group in (broken, batches)])
    groups = [[name for pair in named for ids in pair[part] for name in ids] for part in (0, 1)]
    names = dict.fromkeys(groups[0] or groups[1])
    return StageError(
        f"the {what} is {value} on documents {', '.join(names)}",
        hint="check these documents' hidden states, or lower training.learning_rate",
        rule=f"{what.split()[0]}-not-finite",
    )
