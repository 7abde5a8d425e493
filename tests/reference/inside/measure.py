"""What a step costs its process: memory above the bare process, and the matrix products in it.

Imports torch only: the same measurement runs in this project's process and in the reference's.
"""

from __future__ import annotations

import ctypes
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Layout = tuple[tuple[int, ...], tuple[int, ...]]  # size and stride
Product = tuple[Layout, Layout]

#: Where the two factors stand among an operator's arguments.
FACTORS = {
    "aten::mm": (0, 1),
    "aten::bmm": (0, 1),
    "aten::addmm": (1, 2),
    "aten::addmm_": (1, 2),
    "aten::baddbmm": (1, 2),
    "aten::baddbmm_": (1, 2),
}


def _status(name: str) -> int:
    """A line of the kernel's account of this process, in bytes."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    if found is None:
        raise OSError(f"/proc/self/status has no line {name}")
    return int(found[1]) * 1024


def resident() -> int:
    """Bytes of memory now, once what was freed has gone back to the system."""
    ctypes.CDLL(None).malloc_trim(0)
    return _status("VmRSS")


def forget_peak() -> None:
    """Let ``peak`` start anew from what is resident now."""
    resident()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak() -> int:
    """The most bytes since ``forget_peak``."""
    return _status("VmHWM")


def warm_up() -> None:
    """Let torch load and start what its first optimiser step needs, so that no side is charged for it."""
    weight = torch.ones(8, 8, requires_grad=True)
    weight.matmul(torch.ones(8, 8)).sum().backward()
    torch.optim.AdamW([weight]).step()


class Cost:
    """Of what runs within the block: seconds by the clock and of all processors, bytes at the peak."""

    def __enter__(self) -> Cost:
        forget_peak()
        self._clock, self._processor = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._clock
        self.processor_seconds = time.process_time() - self._processor
        self.peak = peak()

    def document(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "processor_seconds": self.processor_seconds, "peak": self.peak}


class Products(TorchDispatchMode):
    """Within the block, note every matrix product by the layouts of its factors."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        places = FACTORS.get(func._schema.name)
        if places:
            left, right = ((tuple(args[place].shape), args[place].stride()) for place in places)
            self.counts[left, right] += 1
        return func(*args, **(kwargs or {}))

    def document(self) -> list[Any]:
        """``[count, [size, stride], [size, stride]]`` of each kind."""
        return [[count, left, right] for (left, right), count in self.counts.items()]


def replay(products: list[Any]) -> dict[str, Any]:
    """Seconds and floating-point operations of the products alone, each kind run as often as counted."""
    seconds, operations = 0.0, 0
    for count, left, right in products:
        a, b = (_filled(size, stride) for size, stride in (left, right))
        torch.matmul(a, b)  # the first call of a shape prepares its kernel
        started = time.perf_counter()
        for _ in range(count):
            torch.matmul(a, b)
        seconds += time.perf_counter() - started
        operations += count * 2 * a.numel() * b.shape[-1]
    return {"seconds": seconds, "operations": operations}


def _filled(size: list[int], stride: list[int]) -> torch.Tensor:
    room = 1 + sum((length - 1) * step for length, step in zip(size, stride))
    return torch.randn(room).as_strided(size, stride)
