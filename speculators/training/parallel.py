"""One draft on several devices: whole on each (DDP), or in parts (FSDP2).

*Replicated* (``DistributedDataParallel``): every rank holds the draft and its optimiser state; gradients
are added up while the backward pass still runs.  *Sharded* (``torch.distributed.fsdp.fully_shard``): every
rank holds a part of parameters, gradients and optimiser state, and the whole draft only while a window is
computed.  Both hook into the draft's ``forward``, which an objective calls once a sequence.

Gradients are *summed* over ranks, never averaged: an objective's weights are already made from the rows of
all of them.  Only the last sequence of a rank's share exchanges gradients, so ranks may have unequal
numbers of sequences.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from speculators.training.ranks import Ranks


class Replicated(DistributedDataParallel):
    """DDP that sums, and through which the draft's own attributes can be seen."""

    def __init__(self, draft: nn.Module) -> None:
        with warnings.catch_warnings():
            # Exchanged at each forward, buffers would hold up ranks with fewer sequences.  torch 2.13 has a
            # new word for it, which the oldest torch that we support does not know.
            warnings.simplefilter("ignore", FutureWarning)
            super().__init__(draft, broadcast_buffers=False, gradient_as_bucket_view=True)
        # A lambda: torch compares annotations of hooks, and does not know them as text.
        self.register_comm_hook(None, lambda _, bucket: _summed(bucket))

    def dense(self, *arguments: Any) -> Any:
        """The draft's oracle in place of its ``forward``, through the same hooks."""
        forward, self.module.forward = self.module.forward, self.module.dense
        try:
            return self(*arguments)
        finally:
            self.module.forward = forward

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.module, name)


def _summed(bucket: distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
    work = distributed.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


def _sharded(draft: nn.Module) -> nn.Module:
    mesh = distributed.init_device_mesh(next(draft.parameters()).device.type, (distributed.get_world_size(),))
    # Gathered once a window and kept: each sequence would gather it anew otherwise.
    fully_shard(draft, mesh=mesh, reshard_after_forward=False)
    if hasattr(draft, "dense"):  # the oracle
        register_fsdp_forward_method(draft, "dense")
    draft.set_gradient_divide_factor(1.0)
    draft.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sum, not even by one
    return draft


#: By the recipe's ``training.parallelism``.
KINDS: Mapping[str, Callable[[nn.Module], nn.Module]] = {"ddp": Replicated, "fsdp": _sharded}


def spread(draft: nn.Module, kind: str, ranks: Ranks) -> nn.Module:
    """The draft over all ranks: what an objective calls in its place.

    All ranks must hold the same parameters; they are made from the same seed, or read from the same file.
    """
    return draft if ranks.count == 1 else KINDS[kind](draft)


@contextmanager
def exchanging(draft: nn.Module, *, last: bool) -> Iterator[None]:
    """Run a backward pass that exchanges gradients only if it is this rank's ``last`` of the window."""
    if isinstance(draft, Replicated) and not last:
        with draft.no_sync():
            yield
        return
    if isinstance(draft, FSDPModule):
        draft.set_requires_gradient_sync(last)
        draft.set_reshard_after_backward(last)
    yield


@contextmanager
def whole_draft(draft: nn.Module) -> Iterator[None]:
    """Within the block every rank can run the draft as often as it likes, without the others."""
    if not isinstance(draft, FSDPModule):
        yield
        return
    draft.unshard()
    try:
        yield
    finally:
        draft.reshard()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor of which every rank may hold a part; all ranks must ask for it."""
    full: torch.Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach()


def part(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This rank's part of ``tensor``, where and as it holds ``like``; each rank has all of ``tensor``.

    Scalars stay as they are: AdamW's count of steps, which torch keeps on the CPU.
    """
    if not tensor.dim():
        return tensor
    if isinstance(like, DTensor):
        return distribute_tensor(
            tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None
        )
    return tensor.to(like.device)
