"""Windows packed before they are asked for.

Packing reads a window's states from the disk and copies them, a quarter of a gigabyte for each sequence of an
8B verifier: longer than a GPU takes to learn from them.  So while a GPU is at work on one window, a thread
makes the next, in memory that the GPU fetches from by itself.  A CPU has no cores to spare for that: there
each window is made when it is asked for.  Unverified: no GPU has run this yet.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch

from speculators.training.step import Share


def works_ahead(device: torch.device) -> bool:
    """Whether the next window is made while ``device`` is at work on one."""
    return bool(device.type != "cpu")


class Prefetch:
    """The shares of ``count`` windows, by number, each from ``make``; the thread ends with the block."""

    def __init__(self, make: Callable[[int], Share], count: int, device: torch.device) -> None:
        self.make, self.count, self.device = make, count, device
        self.thread = ThreadPoolExecutor(1, "prefetch") if works_ahead(device) else None
        self.coming: dict[int, Future[Share]] = {}

    def take(self, number: int) -> Share:
        """The share of window ``number``, on the device or on its way there.

        Raises:
            SpeculatorsError: that of ``make``.
        """
        if self.thread is None:
            return self.make(number).to(self.device)
        share = (self.coming.get(number) or self.thread.submit(self._ready, number)).result()
        self.coming = {}
        if number + 1 < self.count:
            self.coming = {number + 1: self.thread.submit(self._ready, number + 1)}
        return share.to(self.device)

    def _ready(self, number: int) -> Share:
        share = self.make(number)
        return share.pinned() if self.device.type == "cuda" else share

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.thread is not None:
            self.thread.shutdown(cancel_futures=True)
