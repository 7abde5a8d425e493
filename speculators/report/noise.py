"""What a machine can see, as people read it: the document that ``--aa`` leaves, in a few lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from speculators.quantities import duration


def text(noise: Mapping[str, Any]) -> str:
    """The noise and what follows from it, for a terminal."""
    return "\n".join(_lines(noise))


def _lines(noise: Mapping[str, Any]) -> Iterator[str]:
    ratio = noise["ratio"]
    yield (
        f"the draft against itself: {ratio['mean']:.3f} times its speed "
        f"[{ratio['low']:.3f}, {ratio['high']:.3f}], {noise['rounds']} rounds of {noise['requests']} requests"
    )
    yield (
        f"noise of a round: {noise['spread']:.1%}; of the launch {noise['between']:.1%}, of one request "
        f"{noise['within']:.1%}"
    )
    for one in noise["seen"]:
        loss = "no loss" if one["loss"] is None else f"a loss of {one['loss']:.1%}"
        yield f"  {one['rounds']:>2} rounds as here find {loss} or more four times in five"
    for one in noise["designs"]:
        yield f"  {_design(one['loss'], one['design'])}"
    for warning in noise["warnings"]:
        yield f"  warning: {warning}"


def _design(loss: float, design: Mapping[str, Any] | None) -> str:
    if design is None:
        return f"a loss of {loss:.0%}: not within 30 rounds of all prompts"
    return (
        f"a loss of {loss:.0%} soonest: gate.looks {list(design['looks'])}, requests {design['requests']}; "
        f"two arms take {duration(design['seconds'])} in the mean"
    )
