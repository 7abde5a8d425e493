"""A training step on paper: what it would multiply and hold, without computing it.

Under torch's FakeTensorMode tensors have shapes and no data, so a step of any size runs on any machine
in seconds; an operation that would ask the device for a number raises.  Imports torch only: the same
account is kept in this project's process and in the reference's.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

#: Products with weights; whatever else multiplies is attention.
WEIGHT_PRODUCTS = ("aten.mm", "aten.addmm")


Figures = dict[str, int]


class Live(TorchDispatchMode):
    """Within the block, the bytes of all storages alive, and the most there were.

    A storage counts from the operation that returns it until nobody holds it; a kernel's own scratch
    and an allocator's rounding do not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.arrivals: list[int] = []  # bytes of each tensor that came from another device
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def hold(self, tensors: Iterable[Any]) -> None:
        """Count the storages of ``tensors`` that are not counted yet."""
        for tensor in tensors:
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage not in self._known:
                self._known[storage] = True
                size = storage.nbytes()
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and result.device != args[0].device:
            self.arrivals.append(result.nbytes)
        self.hold(tree_leaves(result))
        return result


def start_moments(optimisers: Iterable[torch.optim.Optimizer]) -> None:
    """Let optimisers make their moments, which every step but the first finds."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def account(
    held: Iterable[Any], optimisers: Iterable[torch.optim.Optimizer], step: Callable[[], None]
) -> Figures:
    """One step's figures, in operations and bytes.

    ``weight_operations`` in products with weights (attention's depend on documents' lengths, which are
    data); ``resting`` is held before the step: the tensors of ``held`` and the optimisers' moments;
    ``peak`` at its most; ``arrivals`` came from another device during the step.
    """
    # The counter takes some operators apart to find products; outside of ``Live`` it does so unseen.
    with FlopCounterMode(display=False) as counter, Live() as live:
        live.hold(held)
        start_moments(optimisers)
        live.most = resting = live.now
        live.arrivals.clear()
        before = weight_operations(counter)
        step()
        return {
            "weight_operations": weight_operations(counter) - before,
            "resting": resting,
            "peak": live.most,
            "arrivals": sum(live.arrivals),
        }


def weight_operations(counter: FlopCounterMode) -> int:
    """What the counter has counted so far in products with weights."""
    by_kind = {str(kind): count for kind, count in counter.get_flop_counts().get("Global", {}).items()}
    return sum(by_kind.get(kind, 0) for kind in WEIGHT_PRODUCTS)
