"""The seam between the training loop and draft architectures: how one architecture is taught.

The loop knows windows, optimisers and epochs; what a draft reads, how it is unrolled and what it is
compared with is its *objective*'s business.  An architecture is a row of ``training.architectures``
with a class that has the methods of ``Objective``; train-time-test (``training.ttt``) is one.

Three promises keep steps fast and let one window span sequences and devices:

* **Shapes are decided before the step.**  ``batch`` runs in the loader, on the CPU, and beside a step
  where that has a device of its own (``training.prefetch``): whatever has a size that depends on the
  data (row sets, drawn anchors) is made there, and nothing changed that others read.  States are
  brought later, when the sequence's turn comes.  ``backward``
  never asks a tensor for a number (no ``.item()``, no ``.tolist()``, no boolean indexing), so that
  nobody waits for an accelerator.  The loop reads numbers once a window.
* **Losses are normalised outside.**  ``backward`` is given the weight of one row at each draft
  position, made from the supervised rows of the *whole* window: a row weighs the same whichever
  sequence, and whichever device, it was packed onto.
* **The draft's trainable arithmetic happens in its ``forward``**, which ``backward`` calls once a
  sequence: wrappers that gather, reduce or compile parameters hook into that call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from speculators.training.packing import PackedSequence
from speculators.training.verifier import FrozenVerifier


class Teaching(NamedTuple):
    """What of a recipe's ``training`` block an objective needs."""

    positions: int  # K: draft positions that are practised
    step_decay: float = 1.0  # weight of position k against the first: step_decay ** k
    losses: Mapping[str, float] = MappingProxyType({"forward_kl": 1.0})  # of training.losses, with weights
    dtype: torch.dtype | None = None  # of matrix products and attention; None for the parameters' own
    checkpointing: bool = False  # compute layers again in the backward pass instead of keeping them
    anchors: int | None = None  # rows a sequence that are taught at most, where an architecture draws them


class Batch(NamedTuple):
    """A packed sequence with what one architecture asks of it."""

    sequence: PackedSequence
    supervised: tuple[int, ...]  # [K] rows taught at each draft position
    rows: Any  # the architecture's own index tensors: a tensor, or (named) tuples of them

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on ``device``, or on their way there from ``pinned`` memory."""
        there: Batch = mapped(self, lambda tensor: tensor.to(device, non_blocking=True))
        return there

    def pinned(self) -> Batch:
        """The same batch in memory that a GPU fetches from while the CPU goes on."""
        pinned: Batch = mapped(self, torch.Tensor.pin_memory)
        return pinned


class Objective(Protocol):
    """How one architecture is taught and questioned; bound to one draft and one verifier."""

    draft: nn.Module
    verifier: FrozenVerifier

    def __init__(self, draft: Any, verifier: FrozenVerifier, teaching: Teaching) -> None: ...

    def batch(self, sequence: PackedSequence, generator: torch.Generator) -> Batch:
        """Decide on the CPU what ``sequence`` teaches, whose states are not there yet ([0, L, H]).

        Whatever is drawn comes from ``generator``, which is seeded by recipe, epoch and documents:
        the same sequence teaches the same after an interruption and at another world size.
        """
        ...

    def weights(self, supervised: torch.Tensor) -> torch.Tensor:
        """What one row's divergence counts at each position, [K] float64.

        ``supervised`` [K] int64: rows taught at each position in the whole window, over all devices;
        0 where there are none.  The window's loss is the weighted sum of all rows' divergences.
        """
        ...

    def backward(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        """Add the gradient of the batch's share of the loss to the draft's parameters.

        Returns the unweighted sums of its rows' divergences, [K] on the device, without a gradient.
        """
        ...

    def propose(self, sequence: PackedSequence, positions: int) -> torch.Tensor:
        """The draft's greedy tokens on ``sequence``, [S, positions] int64 of the verifier's vocabulary.

        Entry (r, k) is the k-th token that serving would propose after reading tokens 0..r+1 of r's
        document, the k tokens between taken from the document: it is about token r + 2 + k.  -1
        where that is not a generated token of the same document.
        """
        ...


def step_means(supervised: torch.Tensor, step_decay: float) -> torch.Tensor:
    """Each position's mean over its rows, decayed: ``step_decay ** k / rows at k``, [K]."""
    steps = torch.arange(len(supervised), dtype=torch.float64, device=supervised.device)  # [K]
    return step_decay**steps / supervised.clamp(min=1)


def moved(value: Any, device: torch.device) -> Any:
    """``value`` with every tensor in it on ``device``."""
    return mapped(value, lambda tensor: tensor.to(device))


def mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """``value`` with every tensor in it changed; tuples, named or not, keep their kind."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, tuple):
        parts = [mapped(part, change) for part in value]
        return type(value)._make(parts) if hasattr(value, "_make") else tuple(parts)
    return value
