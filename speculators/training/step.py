"""One optimiser step: a window's gradient over all its sequences and ranks, clipped and applied.

Whatever a step reads of the device is read once, after its last sequence.  What each sequence teaches is
known before the first, because a row's weight is made from all of them.  States are nearly all of a
sequence's bytes, and are brought when its turn comes: a window needs room for one sequence and for the
gradients of those before it, however many they are.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from speculators.datagen.shards import Document
from speculators.errors import StageError
from speculators.training.objective import Batch, Objective
from speculators.training.optimiser import Optimiser
from speculators.training.packing import filled, outlined
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

    ``outlines``: its sequences, without their states.  ``bring``: the numbered one with them, made when it
    is asked for.
    ``idle``: the window has fewer sequences than there are ranks; this one runs some of another's for
    nothing, because every rank has to take part in the exchange.
    """

    outlines: Sequence[Batch]
    bring: Callable[[int], Batch]
    idle: bool = False

    @classmethod
    def of(cls, batches: Sequence[Batch]) -> Share:
        """Of sequences that are there already."""
        return cls(batches, batches.__getitem__)

    def to(self, device: torch.device) -> Share:
        """The same share, brought to ``device``."""
        return self._replace(bring=lambda number: self.bring(number).to(device))


def share_of(
    window: Window,
    objective: Objective,
    documents: Sequence[Document],
    seed: int,
    epoch: int,
    ranks: Ranks = ALONE,
) -> Share:
    """This rank's sequences of ``window``, as many tokens as the others', as far as that goes.

    They are brought to the CPU.
    """
    tokens = [sum(len(documents[number].token_ids) for number in numbers) for numbers in window]
    own = balanced(tokens, ranks.count)[ranks.index]
    shortest = min(range(len(window)), key=lambda number: (tokens[number], number))
    sequences = [window[place] for place in own or [shortest]]
    packed = [[documents[number] for number in numbers] for numbers in sequences]
    outlines = [outline(objective, *each, seed, epoch) for each in zip(packed, sequences)]
    dtype = objective.verifier.embedding.dtype

    def bring(place: int) -> Batch:
        batch = outlines[place]
        return batch._replace(sequence=filled(batch.sequence, packed[place], dtype))

    return Share(outlines, bring, idle=not own)


def outline(
    objective: Objective, documents: Sequence[Document], numbers: Sequence[int], seed: int, epoch: int
) -> Batch:
    """What the numbered ``documents`` teach, packed; a draw depends on seed, epoch and numbers only."""
    draws = torch.Generator().manual_seed(random.Random(f"{seed}/{epoch}/{numbers}").getrandbits(63))
    return objective.batch(outlined(documents), draws)


def backward(objective: Objective, share: Share, ranks: Ranks = ALONE) -> WindowLoss:
    """Add the window's gradient to the draft's parameters: on all ranks together that of all their sequences.

    The loss is the sum of all rows' divergences, weighted by the objective from the supervised rows
    of the whole window.  An idle rank's sequences count for nothing.

    Raises:
        StageError: the loss is not finite; the message names the documents.
    """
    return window_loss(added_up(objective, share, ranks).figures.tolist(), share, ranks)


class AddedUp(NamedTuple):
    """What adding a window's gradient leaves on the device.

    ``figures`` [1 + K + 2 + N] float64: the loss, each position's mean divergence, rows and tokens; the
    divergence of each of this rank's N sequences.  ``weights`` [K]: of this rank's rows.
    """

    figures: torch.Tensor
    weights: torch.Tensor


def added_up(objective: Objective, share: Share, ranks: Ranks) -> AddedUp:
    """Add the window's gradient."""
    device = objective.verifier.embedding.device
    counted = [[*batch.supervised, len(batch.sequence.token_ids)] for batch in share.outlines]
    totals = [0 if share.idle else sum(column) for column in zip(*counted)]
    # A fill carries its number in the launch; a list that is copied waits for all that the device has to do.
    counts = ranks.sum(torch.stack([torch.full((), total, device=device) for total in totals]))  # [K + 1]
    supervised = counts[:-1]  # [K]
    weights = objective.weights(supervised)  # [K]
    own = torch.zeros_like(weights) if share.idle else weights
    divergences = []
    for number in range(len(counted)):
        with exchanging(objective.draft, last=number == len(counted) - 1):
            # Without a name here: the next one would be brought while this one is still held.
            divergences.append(objective.backward(share.bring(number), own))
    local = torch.stack(divergences)  # [N, K]
    sums = ranks.sum(local.sum(dim=0) * (not share.idle))  # [K]
    means = sums / supervised.clamp(min=1)  # [K]
    rows_and_tokens = torch.stack((counts[0], counts[-1]))
    figures = torch.cat([(weights * sums).sum()[None], means, rows_and_tokens, local.sum(dim=1)])
    return AddedUp(figures, own)


def window_loss(figures: Sequence[float], share: Share, ranks: Ranks) -> WindowLoss:
    """What ``added_up`` found, read.

    Raises:
        StageError: the loss is not finite; the message names the documents.
    """
    loss, *others = figures
    size = len(share.outlines)
    *by_step, rows, tokens = others[:-size]
    if not math.isfinite(loss):
        broken = [batch for batch, value in zip(share.outlines, others[-size:]) if not math.isfinite(value)]
        raise not_finite("loss", loss, broken, share, ranks)
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
    found = added_up(objective, share, ranks)
    length = whole(torch.nn.utils.clip_grad_norm_(objective.draft.parameters(), gradient_clip))
    norm, *figures = torch.cat([length[None], found.figures]).tolist()
    result = window_loss(figures, share, ranks)
    if not math.isfinite(norm):
        broken = without_gradient(objective, share, optimiser, found.weights, ranks)
        raise not_finite("gradient norm", norm, broken, share, ranks)
    optimiser.step(rate)
    return result, norm


def without_gradient(
    objective: Objective, share: Share, optimiser: Optimiser, weights: torch.Tensor, ranks: Ranks
) -> list[Batch]:
    """The first of this rank's sequences that is run in vain, found by running the window again, one by one.

    Ranks take turns side by side and exchange each time, because a sharded draft knows no gradient of one
    rank alone: each names its sequence of the turn that failed.  Nothing if it takes several turns.
    """
    turns = max(ranks.gather(len(share.outlines)))
    for turn in range(turns):
        optimiser.zero_grad()
        with exchanging(objective.draft, last=True):
            objective.backward(share.bring(min(turn, len(share.outlines) - 1)), weights)
        length = whole(torch.nn.utils.clip_grad_norm_(objective.draft.parameters(), 1.0))
        if not math.isfinite(length.item()):
            return [] if share.idle else list(share.outlines[turn : turn + 1])
    return []


def not_finite(what: str, value: float, broken: Sequence[Batch], share: Share, ranks: Ranks) -> StageError:
    """The error that names the documents of the ``broken`` batches of all ranks, or of the whole window."""
    named = ranks.gather(
        [[list(batch.sequence.ids) for batch in group] for group in (broken, share.outlines)]
    )
    groups = [[name for pair in named for ids in pair[part] for name in ids] for part in (0, 1)]
    names = dict.fromkeys(groups[0] or groups[1])
    return StageError(
        f"the {what} is {value} on documents {', '.join(names)}",
        hint="check these documents' hidden states, or lower training.learning_rate",
        rule=f"{what.split()[0]}-not-finite",
    )
