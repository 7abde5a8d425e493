"""Which arm runs when.

The unit of repetition is the server launch: a round launches every arm once.  The order rotates from
round to round, so that a machine that warms up or slows down does not favour one arm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

PLAIN = "plain"
DRAFT = "draft"
#: What the draft is gated against when both are measured in the same rounds.
BASE = "base"
ARMS = (PLAIN, DRAFT)
#: The same on a quantised copy of the verifier.
QUANTISED_PLAIN = "quantised-plain"
QUANTISED_DRAFT = "quantised-draft"
QUANTISED_ARMS = (QUANTISED_PLAIN, QUANTISED_DRAFT)
PLAIN_ARMS = (PLAIN, QUANTISED_PLAIN)
DRAFT_ARMS = (DRAFT, QUANTISED_DRAFT)
#: Arms that speculate without a draft, and the package that the engine needs for it.
FREE_ARMS: Mapping[str, str] = {"ngram": "", "suffix": "arctic-inference"}


def depth_arm(tokens: int) -> str:
    """The arm of the draft with another number of proposed tokens."""
    return f"{DRAFT}-{tokens}"


def depth_of(arm: str) -> int | None:
    """The proposed tokens of such an arm; None of any other."""
    name, _, tokens = arm.partition("-")
    return int(tokens) if name == DRAFT and tokens.isdigit() else None


class Launch(NamedTuple):
    """One server launch; rounds count from 1."""

    round: int
    arm: str

    @property
    def folder(self) -> str:
        """Where its files lie, below the benchmark's folder."""
        return f"round-{self.round:02d}/{self.arm}"


def schedule(rounds: int, arms: Sequence[str] = ARMS) -> list[Launch]:
    """All launches in order: round r begins with arm (r - 1) modulo the number of arms."""
    return [
        Launch(number + 1, arms[(number + place) % len(arms)])
        for number in range(rounds)
        for place in range(len(arms))
    ]
