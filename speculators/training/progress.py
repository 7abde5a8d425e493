"""How far a run has come: counted here, said every few seconds, written into checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from speculators.training.course import Course

INTERVAL = 5.0  # seconds between lines


class Reached(NamedTuple):
    """A place between two windows, or between a window and the validation after it, as plain values."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    course: Course = Course()

    @classmethod
    def of(cls, values: dict[str, Any]) -> Reached:
        """The place whose ``document`` went through JSON."""
        return cls(**values | {"course": Course.of(values["course"])})

    def document(self) -> dict[str, Any]:
        """This place for a JSON document."""
        return self._asdict() | {"course": self.course._asdict()}


class Progress:
    """Counts a run's steps, tokens and seconds of training; the clock stops while paused.

    ``start``: where an interrupted attempt had come, whose counts and seconds go on.
    """

    def __init__(self, total_steps: int, say: Callable[[str], None], start: Reached | None = None) -> None:
        self.total_steps = total_steps
        self.say = say
        self.steps, self.tokens, self.earlier, self.course = start or Reached()
        self.started = self.spoken = time.monotonic()
        self.paused = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of training so far, earlier attempts included and pauses left out."""
        return self.earlier + time.monotonic() - self.started - self.paused

    @property
    def reached(self) -> Reached:
        """This place, to continue from."""
        return Reached(self.steps, self.tokens, self.seconds, self.course)

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
