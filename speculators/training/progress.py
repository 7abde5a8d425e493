"""How far a run has come: counted here, said every few seconds, written into checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

INTERVAL = 5.0  # seconds between lines


class Reached(NamedTuple):
    """A place between two windows, as plain values."""

    epochs: int = 0  # finished, validation and export included
    windows: int = 0  # done of the epoch after those
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_epoch: int = 0  # 1-based; 0 as long as none is finished
    validation: dict[str, Any] | None = None  # of the best epoch


class Progress:
    """Counts a run's steps, tokens and seconds of training; the clock stops while paused.

    ``start``: where an interrupted attempt had come, whose counts and seconds go on.
    """

    def __init__(self, total_steps: int, say: Callable[[str], None], start: Reached | None = None) -> None:
        self.total_steps = total_steps
        self.say = say
        start = start or Reached()
        self.epochs, self.windows, self.steps, self.tokens = (
            start.epochs,
            start.windows,
            start.steps,
            start.tokens,
        )
        self.best_epoch, self.validation = start.best_epoch, start.validation
        self.earlier = start.seconds
        self.started = self.spoken = time.monotonic()
        self.paused = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of training so far, earlier attempts included and pauses left out."""
        return self.earlier + time.monotonic() - self.started - self.paused

    @property
    def reached(self) -> Reached:
        """This place, to continue from."""
        counts = (self.epochs, self.windows, self.steps, self.tokens)
        return Reached(*counts, self.seconds, self.best_epoch, self.validation)

    def step(self, epoch: int, loss: float, tokens: int) -> None:
        """Count one optimiser step; say so if the last line is old enough, or it is the first or last."""
        self.windows += 1
        self.steps += 1
        self.tokens += tokens
        now = time.monotonic()
        if self.steps in (1, self.total_steps) or now - self.spoken >= INTERVAL:
            self.spoken = now
            left = self.seconds / self.steps * (self.total_steps - self.steps)
            self.say(
                f"step {self.steps}/{self.total_steps} epoch {epoch}: loss {loss:.3f}, "
                f"{self.tokens / max(self.seconds, 1e-9):.0f} tokens/s, {left / 60:.1f} min left"
            )

    def end_epoch(self, validation: dict[str, Any] | None, *, kept: bool) -> None:
        """Count one epoch, whose draft is the best so far if it was ``kept``."""
        self.epochs, self.windows = self.epochs + 1, 0
        if kept:
            self.best_epoch, self.validation = self.epochs, validation

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave what happens inside out of the training time."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.paused += time.monotonic() - began
