"""The processes that train one draft together, and the few things they tell each other.

A *rank* is one process with one device.  All ranks walk through the same plan and take the same
decisions; each runs its share of a window's sequences.  The first one leads: it alone writes files and
speaks.  For a single process everything here is nothing, so the loop is written once.

Numbers that decide how a run goes on are exchanged as CPU tensors and Python objects, sums that belong
to the step on the device, where nobody waits for them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

#: gloo carries what lies on the CPU, NCCL what lies on GPUs.
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
#: A rank that is silent for so long will not come back; validation and exports are minutes, not hours.
PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True)
class Ranks:
    """This process among ``count``."""

    index: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.index == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` added up over all ranks, in place."""
        if self.count > 1:
            distributed.all_reduce(tensor)
        return tensor

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Of each flag whether it is up on any rank."""
        return tuple(bool(up) for up in self.sum(torch.tensor([int(flag) for flag in flags])))

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks in their order, on each of them."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def lead(self, value: Any) -> Any:
        """The value of the first rank, on each of them."""
        if self.count == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]


ALONE = Ranks()


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Meet the other ranks where torchrun's environment variables say; leave them at the end.

    Who fails does not take leave: the others would fail of that before the cause is written down.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(BACKENDS[device.type], timeout=PATIENCE)
    yield Ranks(distributed.get_rank(), distributed.get_world_size())
    distributed.destroy_process_group()


def local_device() -> torch.device:
    """The device of this rank: of several GPUs the one that torchrun numbered it by."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def balanced(costs: Sequence[int], count: int) -> list[list[int]]:
    """Numbers of the items that each of ``count`` ranks takes, so that the costliest share costs little.

    Longest processing time first (R. Graham, SIAM J. Appl. Math. 17, 1969): the next costliest item goes
    to whom has the least so far, which is at most a third above the best possible.  Equal costs give
    equal shares on every machine: ties go to the lower number.
    """
    loads = [0] * count
    shares: list[list[int]] = [[] for _ in range(count)]
    for number in sorted(range(len(costs)), key=lambda one: (-costs[one], one)):
        rank = min(range(count), key=lambda one: (loads[one], one))
        loads[rank] += costs[number]
        shares[rank].append(number)
    return [sorted(share) for share in shares]
