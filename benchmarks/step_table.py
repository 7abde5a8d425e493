"""What the training benchmark found, for reading and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from speculators.benchmark.statistics import Ratio, geometric_mean, mean_ratio

MEGABYTE = 1e6


class Step(NamedTuple):
    """One side's step on one batch."""

    seconds: float
    processor_seconds: float  # of all its threads: what other work on the machine stretches least
    loss: float
    memory: int  # bytes at its peak above the bare process


class Round(NamedTuple):
    """Every side's step on one batch, and the matrix products of the first side alone."""

    steps: dict[str, Step]
    products: float  # seconds
    operations: int  # in those products

    def document(self) -> dict[str, Any]:
        return {**self._asdict(), "steps": {side: step._asdict() for side, step in self.steps.items()}}


class Setting(NamedTuple):
    """One pack size and supervised share; the first of ``sides`` is the one that is compared."""

    sides: tuple[str, ...]
    tokens: int
    taught: float  # the share of tokens that is supervised
    rounds: Sequence[Round]

    def column(self, side: str, field: str) -> list[float]:
        """A figure of one side, round by round."""
        return [getattr(one.steps[side], field) for one in self.rounds]

    def speed(self, side: str) -> float:
        """Tokens a second, geometric mean over rounds."""
        return self.tokens / geometric_mean(self.column(side, "seconds"))

    def memory(self, side: str) -> float:
        """Megabytes above the bare process, the most of all rounds."""
        return max(self.column(side, "memory")) / MEGABYTE

    def speedup(self, side: str, field: str = "seconds") -> Ratio:
        """How many times as fast as ``side`` the first side is."""
        pairs = zip(self.column(side, field), self.column(self.sides[0], field))
        return mean_ratio([theirs / ours for theirs, ours in pairs])

    @property
    def matmul_share(self) -> float:
        """The seconds of the first side's matrix products alone, over those of its step."""
        pairs = zip(self.rounds, self.column(self.sides[0], "seconds"))
        return mean_ratio([one.products / seconds for one, seconds in pairs]).mean

    @property
    def matmul_speed(self) -> float:
        """Operations a second of those products: the machine's best on these shapes."""
        return geometric_mean([one.operations / one.products for one in self.rounds])

    @property
    def drift(self) -> float:
        """The largest relative difference of a side's loss from the first side's."""
        return max(
            abs(step.loss / one.steps[self.sides[0]].loss - 1)
            for one in self.rounds
            for step in one.steps.values()
        )

    def document(self) -> dict[str, Any]:
        """All figures and what they are made of."""
        return {
            "tokens": self.tokens,
            "taught": self.taught,
            "matmul_share": self.matmul_share,
            "matmul_operations_per_second": self.matmul_speed,
            "loss_drift": self.drift,
            "sides": {
                side: {
                    "tokens_per_second": self.speed(side),
                    "memory_megabytes": self.memory(side),
                    "speedup_of_first": self.speedup(side)._asdict(),
                    "speedup_of_first_in_processor_time": self.speedup(side, "processor_seconds")._asdict(),
                }
                for side in self.sides
            },
            "rounds": [one.document() for one in self.rounds],
        }

    def lines(self) -> list[list[str]]:
        """One line a side; the first one's says what its matrix products took."""
        first, lines = self.sides[0], []
        for side in self.sides:
            line = [str(self.tokens), f"{self.taught:.2f}", side, f"{self.speed(side):.0f}"]
            memory, own = self.memory(side), self.memory(first)
            if side == first:
                products = f"matmuls {self.matmul_share:.0%}, at {self.matmul_speed / 1e9:.0f} GFLOP/s"
                line += ["", "", f"{memory:.0f} MB", "", products]
            else:
                processor = f"{self.speedup(side, 'processor_seconds').mean:.2f}"
                line += [spread(self.speedup(side)), processor, f"{memory:.0f} MB", f"{own / memory:.2f}"]
            lines.append(line)
        return lines


def spread(ratio: Ratio) -> str:
    """``4.01 (3.80 to 4.23)``"""
    interval = "" if ratio.low is None else f" ({ratio.low:.2f} to {ratio.high:.2f})"
    return f"{ratio.mean:.2f}{interval}"


def table(settings: Sequence[Setting]) -> str:
    """Every setting's lines under one head."""
    first = settings[0].sides[0]
    head = ["pack", "taught", "", "tokens/s", f"{first}: times", "processor", "memory", "share", ""]
    return aligned([head, *(line for one in settings for line in one.lines())])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells in columns; a line may end early."""
    widths = [max(map(len, column)) for column in zip_longest(*lines, fillvalue="")]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines
    )
