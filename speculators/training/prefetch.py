"""Sequences packed before they are asked for.

Packing reads a sequence's states from the disk and copies them, a quarter of a gigabyte for an 8B verifier:
longer than a GPU takes to learn from them.  So while a GPU is at work on one sequence, a thread makes the
next, in memory that the GPU fetches from by itself; a second thread outlines the next window.  One sequence
is ahead, never more, however many a window has.  A CPU has no cores to spare for that: there each is made
when it is asked for.  Unverified: no GPU has run this yet.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType

import torch

from speculators.training.objective import Batch
from speculators.training.step import Share


def works_ahead(device: torch.device) -> bool:
    """Whether the next sequence is made while ``device`` is at work on one."""
    return bool(device.type != "cpu")


class Prefetch:
    """The shares of ``count`` windows, by number, each from ``make``; the threads end with the block."""

    def __init__(self, make: Callable[[int], Share], count: int, device: torch.device) -> None:
        self.make, self.count, self.device = make, count, device
        # Two: who fills a window's first sequence may have to wait for its outline.
        self.threads = ThreadPoolExecutor(2, "prefetch") if works_ahead(device) else None
        self.shares: dict[int, Future[Share]] = {}
        self.coming: dict[tuple[int, int], Future[Batch]] = {}

    def take(self, number: int) -> Share:
        """The share of window ``number``, whose sequences are brought to the device.

        Raises:
            SpeculatorsError: that of ``make``.
        """
        if self.threads is None:
            return self.make(number).to(self.device)
        near = (one for one in (number, number + 1) if one < self.count)
        self.shares = {one: self.shares.get(one) or self.threads.submit(self.make, one) for one in near}
        share = self.shares[number].result()
        return share._replace(bring=partial(self._bring, self.threads, number, len(share.outlines))).to(
            self.device
        )

    def _bring(self, threads: ThreadPoolExecutor, number: int, size: int, place: int) -> Batch:
        """Sequence ``place`` of the ``size`` of window ``number``; the one after it is begun."""

        def begun(window: int, place: int) -> Future[Batch]:
            known = self.coming.get((window, place))
            return known or threads.submit(self._ready, self.shares[window], place)

        batch = begun(number, place)
        after = (number, place + 1) if place + 1 < size else (number + 1, 0)
        self.coming = {after: begun(*after)} if after[0] in self.shares else {}
        return batch.result()

    def _ready(self, share: Future[Share], place: int) -> Batch:
        batch = share.result().bring(place)
        return batch.pinned() if self.device.type == "cuda" else batch

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.threads is not None:
            self.threads.shutdown(cancel_futures=True)
