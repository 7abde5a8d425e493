"""How the recipe's thinking switch reaches the chat template.

One field drives generation, mask and benchmark; whether a template listens to it can be read from
its text, and a template that does not must not be claimed to think.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speculators.errors import RecipeError

__all__ = ["SWITCH", "template_arguments", "thinking_modes"]

#: The variable that chat templates of switchable models read.
SWITCH = "enable_thinking"

MODES: dict[str, tuple[bool, ...]] = {"off": (False,), "on": (True,), "both": (False, True)}


def thinking_modes(verifier: Mapping[str, Any], template: str) -> tuple[bool, ...]:
    """The values of the thinking switch that rows alternate between.

    Raises:
        RecipeError: thinking is asked of a template without such a switch.
    """
    thinking = verifier.get("thinking", "off")
    if thinking != "off" and SWITCH not in template:
        raise RecipeError(
            f"verifier.thinking is {thinking}, but the chat template has no variable {SWITCH!r}",
            hint="set thinking: off, or name the template's own switch in chat_template_kwargs",
            rule="no-thinking-switch",
        )
    return MODES[thinking]


def template_arguments(verifier: Mapping[str, Any], template: str, thinking: bool) -> dict[str, Any]:
    """What the chat template is rendered with; the recipe's ``chat_template_kwargs`` win."""
    switch = {SWITCH: thinking} if SWITCH in template else {}
    return switch | dict(verifier.get("chat_template_kwargs") or {})
