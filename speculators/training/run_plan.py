"""What a run will do, in order: known before its first step, because the schedule needs their number."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from speculators.training.packing import plan_epoch

Window = list[list[int]]  # what one optimiser step sees: sequences of document numbers


class RunPlan(NamedTuple):
    """The windows of all epochs, one optimiser step each, and how many of them are done at certain places."""

    windows: tuple[Window, ...]
    epoch_ends: tuple[int, ...]  # at the end of each epoch
    validations: tuple[int, ...]  # where the draft is validated; the last one is the run's end

    def epoch_of(self, step: int) -> int:
        """The epoch, 1-based, that step ``step`` (0-based) belongs to."""
        return bisect_right(self.epoch_ends, step) + 1

    def validations_due(self, steps: int) -> int:
        """How many validations belong before step ``steps``."""
        return bisect_right(self.validations, steps)

    def epochs_done(self, steps: int) -> float:
        """How many epochs ``steps`` steps are: 2 after the second, 1.5 in its middle."""
        finished = bisect_right(self.epoch_ends, steps)
        start = self.epoch_ends[finished - 1] if finished else 0
        if steps == start:
            return finished  # whole, also for who reads the figures
        return finished + (steps - start) / (self.epoch_ends[finished] - start)

    def share(self, steps: int) -> float:
        """How much of all epochs ``steps`` steps are, in [0, 1].

        Each epoch is packed anew and may have a step more than another; half of them is half all the same.
        """
        return self.epochs_done(steps) / len(self.epoch_ends)


def plan_run(
    lengths: Sequence[int],
    sequence_length: int,
    sequences_per_step: int,
    epochs: int,
    seed: int,
    validations_per_epoch: int = 1,
) -> RunPlan:
    """The plan for documents of ``lengths`` tokens: a function of these values alone.

    An epoch of fewer windows than ``validations_per_epoch`` is validated after each.
    """
    windows: list[Window] = []
    ends: list[int] = []
    validations: list[int] = []
    for epoch in range(epochs):
        sequences = plan_epoch(lengths, sequence_length, seed, epoch)
        start = len(windows)
        windows += [
            sequences[first : first + sequences_per_step]
            for first in range(0, len(sequences), sequences_per_step)
        ]
        ends.append(len(windows))
        size = len(windows) - start
        count = min(validations_per_epoch, size)
        validations += [start + -(-size * part // count) for part in range(1, count + 1)]
    return RunPlan(tuple(windows), tuple(ends), tuple(validations))
