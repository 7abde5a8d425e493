"""Progress lines: step, loss, speed, time left; one every few seconds, not one a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERVAL = 5.0  # seconds between lines


class Progress:
    """Counts a run's steps, tokens and seconds of training; the clock stops while paused."""

    def __init__(self, total_steps: int, say: Callable[[str], None]) -> None:
        self.total_steps = total_steps
        self.say = say
        self.steps = 0
        self.tokens = 0
        self.started = self.spoken = time.monotonic()
        self.paused = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of training so far, pauses left out."""
        return time.monotonic() - self.started - self.paused

    def step(self, epoch: int, loss: float, tokens: int) -> None:
        """Count one optimiser step; say so if the last line is old enough, or it is the first or last."""
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

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave what happens inside out of the training time."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.paused += time.monotonic() - began
