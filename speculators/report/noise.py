"""What a machine can see, as people read it: the document that ``--aa`` leaves, in a few lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from speculators.benchmark.figures import tells_changed
from speculators.quantities import duration

TOO_FEW = "so few answers cannot show that outputs changed"


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
    stored = f"against a stored baseline of {noise['baseline_rounds']} rounds"
    often = f"in {noise['wanted']:.0%} of gates"
    for one in noise["seen"]:
        yield (
            f"  {one['rounds']:>2} rounds as here find {_loss(one['loss'])} {often} with the base"
            f" in the same rounds, {stored} {_loss(one['stored'])}"
        )
    for one in noise["designs"]:
        yield f"  a loss of {one['loss']:.0%} {often}, soonest"
        yield f"    with the base in the same rounds: {_design(one['design'], 'three arms')}"
        yield f"    {stored}: {_design(one['stored'], 'two arms')}"
    for warning in noise["warnings"]:
        yield f"  warning: {warning}"


def _loss(loss: float | None) -> str:
    return "no loss" if loss is None else f"a loss of {loss:.1%} or more"


def _design(design: Mapping[str, Any] | None, arms: str) -> str:
    if design is None:
        return "not within 30 rounds of all prompts"
    few = "" if tells_changed(design["requests"], len(design["looks"])) else f"; {TOO_FEW}"
    return (
        f"gate.looks {list(design['looks'])}, requests {design['requests']}; "
        f"{arms} take {duration(design['seconds'])} in the mean{few}"
    )
