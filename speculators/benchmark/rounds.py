"""Which arm runs when.

The unit of repetition is the server launch: a round launches every arm once.  The order rotates from
round to round, so that a machine that warms up or slows down does not favour one arm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

PLAIN = "plain"
DRAFT = "draft"
#: What the draft is gated against when both are measured in the same rounds.
BASE = "base"
ARMS = (PLAIN, DRAFT)


class Condition(NamedTuple):
    """Plain serving and the draft once more, under something that is other than in the first two arms."""

    name: str

    @property
    def plain(self) -> str:
        return f"{self.name}-{PLAIN}"

    @property
    def draft(self) -> str:
        return f"{self.name}-{DRAFT}"

    @property
    def arms(self) -> tuple[str, str]:
        return self.plain, self.draft


#: On a quantised copy of the verifier.
QUANTISED = Condition("quantised")
#: With the engine's prefix cache on, every prompt asked before.
CACHED = Condition("cached")
#: Answers drawn as the model's own generation config says.
SAMPLED = Condition("sampled")
CONDITIONS = (QUANTISED, CACHED, SAMPLED)
#: Plain serving with the base's engine, where its arguments or environment are not ours.
BASE_PLAIN = f"{BASE}-{PLAIN}"
PLAIN_ARMS = (PLAIN, BASE_PLAIN, *(one.plain for one in CONDITIONS))
#: Arms that speculate without a draft, and the package that the engine needs for it.
FREE_ARMS: Mapping[str, str] = {"ngram": "", "suffix": "arctic-inference"}


def conditions_of(benchmark: Mapping[str, Any], *, quantised: bool) -> tuple[Condition, ...]:
    """Those that a recipe's ``benchmark`` asks for; ``quantised``: whether there is such a copy."""
    asked = {
        QUANTISED: quantised,
        CACHED: benchmark.get("prefix_cache") == "both",
        SAMPLED: benchmark.get("sampling") == "both",
    }
    return tuple(one for one in CONDITIONS if asked[one])


def arms_asked(recipe: Mapping[str, Any], free: int) -> int:
    """How many arms a resolved recipe asks for, ``free`` of them without a draft."""
    wanted = recipe["benchmark"]
    own = wanted["speculative_tokens"] or recipe.get("algorithm", {}).get("speculative_tokens")
    conditions = conditions_of(wanted, quantised=bool(wanted["quantised"]))
    return len(ARMS) + free + sum(len(one.arms) for one in conditions) + len(set(wanted["depths"]) - {own})


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
        return f"{round_folder(self.round)}/{self.arm}"


def round_folder(number: int) -> str:
    """Where the files of a round lie, below the benchmark's folder."""
    return f"round-{number:02d}"


def schedule(rounds: int, arms: Sequence[str] = ARMS) -> list[Launch]:
    """All launches in order: round r begins with arm (r - 1) modulo the number of arms."""
    return [
        Launch(number + 1, arms[(number + place) % len(arms)])
        for number in range(rounds)
        for place in range(len(arms))
    ]


def turns(prompts: int, arms: int) -> list[int]:
    """Which arm is asked at each request, when each of ``prompts`` is asked of every arm before the next one.

    A server finds the machine as the one before it left it, so within the prompts every arm follows every
    other one equally often (E. J. Williams, "Experimental designs balanced for the estimation of residual
    effects of treatments", 1949): over as many prompts as there are arms, or twice as many of an odd number.
    """
    first = [(place + 1) // 2 if place % 2 else (arms - place // 2) % arms for place in range(arms)]
    order: list[int] = []
    for prompt in range(prompts):
        row = [(arm + prompt) % arms for arm in first]
        order += reversed(row) if arms % 2 and (prompt // arms) % 2 else row
    return order
