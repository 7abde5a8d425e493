"""A request to end, noted instead of obeyed at once: half an optimiser step cannot be written down."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Within the block SIGINT and SIGTERM only set a flag; yields the function that asks for it.

    A second signal changes nothing: the supervisor sends SIGTERM to the group and to each process of
    it, so two are the rule, and it has SIGKILL for who takes too long.  Main thread only.
    """
    asked: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def orphaned() -> bool:
    """Whether this process was started by another one of ours that has ended without ending it."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()
