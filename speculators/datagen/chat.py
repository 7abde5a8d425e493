"""What reaches the chat template: the recipe's thinking switch, and messages as the endpoint passes them.

One field drives generation, mask and benchmark; whether a template listens to it can be read from
its text, and a template that does not must not be claimed to think.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from speculators.errors import RecipeError

__all__ = ["SWITCH", "as_served", "template_arguments", "thinking_modes"]

#: The variable that chat templates of switchable models read.
SWITCH = "enable_thinking"

#: A tool call's keys in the order of the endpoint's types (``ChatCompletionMessageFunctionToolCallParam`` of
#: openai), which drop others: a template that prints a call shows them so.
CALL, FUNCTION = ("id", "function", "type"), ("arguments", "name")

#: What an answer's thoughts are called: by vLLM, and by its older versions and most templates.
THOUGHTS = ("reasoning", "reasoning_content")

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


def as_served(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as vLLM's chat endpoint hands them to the template.

    Clients send a tool call's arguments as JSON text and templates get the object; text that is none becomes
    an empty one.  An answer's thoughts come under either of two names and reach the template under both;
    no content becomes an empty one (``_parse_chat_message_content`` and ``_postprocess_messages`` of
    vllm/renderers/chat_utils.py, ``_normalize_messages_before`` of its chat protocol).  What is of no use to
    a role does not reach the template.
    """
    return [_as_served(message) for message in messages]


def _as_served(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message["content"]
    shown = {"role": message["role"], "content": "" if content is None else content}
    if isinstance(message.get("name"), str):
        shown["name"] = message["name"]
    if message["role"] == "tool" and "tool_call_id" in message:
        shown["tool_call_id"] = message["tool_call_id"]
    if message["role"] != "assistant":
        return shown
    thoughts = [message[name] for name in THOUGHTS if message.get(name) is not None]
    if thoughts:
        shown |= dict.fromkeys(THOUGHTS, thoughts[0])
    if message.get("tool_calls"):
        shown["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    return shown


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"] | {"arguments": _object(call["function"].get("arguments"))}
    known = {**call, "function": {name: function[name] for name in FUNCTION if name in function}}
    return {name: known[name] for name in CALL if name in known}


def _object(arguments: Any) -> dict[str, Any]:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return {}
    return arguments if isinstance(arguments, dict) else {}
