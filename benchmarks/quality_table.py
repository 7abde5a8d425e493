"""What served acceptance lengths say of two systems: the paired difference, and all of it as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.step_table import aligned
from speculators.benchmark.figures import pooled_change
from speculators.benchmark.measurement import pooled_length

ALPHA = 0.05  # of the two-sided interval


class Counts(NamedTuple):
    """One answer: vLLM's counts of it, and its tokens.  A sum of several answers is one as well."""

    drafts: int
    accepted: int
    tokens: int
    answers: int = 1

    @property
    def steps(self) -> int:
        """Passes of the verifier that speculated or could have: the first token comes with the prompt.

        A free method proposes nothing where it finds nothing, and such a step is none of vLLM's drafts.
        """
        return max(self.drafts, self.tokens - self.answers - self.accepted)

    def plus(self, other: Counts) -> Counts:
        return Counts(*(mine + theirs for mine, theirs in zip(self, other)))


class Served(NamedTuple):
    """One arm on all prompts, by prompt id.  ``size``: supervised tokens that trained it, or None."""

    arm: str
    size: int | None
    prompts: Mapping[str, Counts]
    rate: float | None = None
    predicted: float | None = None

    @property
    def acceptance_length(self) -> float:
        """1 + accepted / drafts, pooled; 1 where nothing was drafted."""
        drafts = sum(one.drafts for one in self.prompts.values())
        return 1 + sum(one.accepted for one in self.prompts.values()) / drafts if drafts else 1.0

    @property
    def tokens_per_step(self) -> float:
        """The same over all steps, also those without a draft: what counts against a free method."""
        return pooled_length([(one.steps, one.accepted) for one in self.prompts.values() if one.steps])


class Change(NamedTuple):
    """How many times as many tokens a step ``new`` gets as ``old``, on the same prompts.

    ``low`` and ``high``: 95 % interval over prompts.  It says how much prompts differ, nothing of seeds.
    """

    new: str
    old: str
    size: int
    ratio: float
    low: float
    high: float
    prompts: int

    @property
    def difference(self) -> str:
        """``+2.1 % (-0.4 to +4.7)``"""
        mean, low, high = (100 * (value - 1) for value in (self.ratio, self.low, self.high))
        return f"{mean:+.1f} % ({low:+.1f} to {high:+.1f})"


def summed(several: Sequence[Served]) -> Served:
    """One arm's launches (of drafts with several seeds) as one, prompt by prompt."""
    first, *others = several
    prompts = dict(first.prompts)
    for other in others:
        prompts = {name: counts.plus(other.prompts[name]) for name, counts in prompts.items()}
    return first._replace(prompts=prompts)


def change(new: Served, old: Served, size: int) -> Change:
    """``new`` against ``old`` in tokens a step.

    Raises:
        ValueError: fewer than two prompts that both answered with more than one step.
    """
    both = [
        ((before.steps, before.accepted), (after.steps, after.accepted))
        for name, before in old.prompts.items()
        if (after := new.prompts.get(name)) and before.steps and after.steps
    ]
    if len(both) < 2:
        raise ValueError(
            f"{new.arm} and {old.arm}: a paired interval needs two prompts, there are {len(both)}"
        )
    estimate = pooled_change([pair[0] for pair in both], [pair[1] for pair in both])
    bounds = estimate.below(ALPHA / 2), estimate.above(ALPHA / 2)
    low, high = (math.exp(bound) for bound in bounds)
    return Change(new.arm, old.arm, size, math.exp(estimate.mean), low, high, len(both))


def changes(served: Sequence[Served], compared: Sequence[tuple[str, str]]) -> list[Change]:
    """The ``compared`` pairs (new, old) at each size; an arm without training stands beside every size."""
    found = []
    for new in served:
        for old in served:
            if (new.arm, old.arm) in compared and new.size is not None and old.size in (None, new.size):
                found.append(change(new, old, new.size))
    return found


def document(served: Sequence[Served], found: Sequence[Change]) -> dict[str, Any]:
    """All figures and what they are made of."""
    return {
        "served": [
            {
                **one._asdict(),
                "prompts": {name: counts._asdict() for name, counts in one.prompts.items()},
                "acceptance_length": one.acceptance_length,
                "tokens_per_step": one.tokens_per_step,
            }
            for one in served
        ],
        "changes": [one._asdict() for one in found],
    }


def table(served: Sequence[Served], found: Sequence[Change]) -> str:
    """Every arm's figures, then every comparison."""
    arms = [["tokens", "arm", "rate", "held-out", "served", "a step"]]
    for one in sorted(served, key=lambda one: (one.size is None, one.size or 0)):
        rate, predicted = (
            f"{one.rate:g}" if one.rate else "",
            f"{one.predicted:.3f}" if one.predicted else "",
        )
        size = str(one.size) if one.size else ""
        figures = [f"{one.acceptance_length:.3f}", f"{one.tokens_per_step:.3f}"]
        arms.append([size, one.arm, rate, predicted, *figures])
    pairs = [["tokens", "arm", "against", "tokens a step (95 % over prompts)", "prompts"]]
    pairs += [[str(one.size), one.new, one.old, one.difference, str(one.prompts)] for one in found]
    return aligned(arms) + "\n\n" + aligned(pairs)
