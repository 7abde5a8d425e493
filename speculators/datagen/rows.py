"""What a row of a prompt file may look like, and the one conversation that each form stands for.

People bring three kinds of rows: a ``prompt`` (with or without a ``response``), chat ``messages``, and the
``conversations`` of ShareGPT.  All become messages as chat templates take them, or are refused with a reason:
a role that is guessed wrong teaches a draft the user's words.

Pure: a JSON object in, a conversation out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Message = dict[str, Any]

ROLES = ("system", "user", "assistant", "tool")
#: What else a message may carry: templates of models that call tools or think read these.
EXTRAS = frozenset({"name", "tool_calls", "tool_call_id", "reasoning", "reasoning_content"})
#: ShareGPT's senders, as the data sets on the Hub spell them.
SENDERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
#: What calls and tools have in common.
FUNCTIONS = "a list of objects, each with a 'function' that has a 'name'"
TOOL = 'a tool looks like {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}'


class Conversation(NamedTuple):
    """Messages, and the tools that the model was offered (JSON schemas of functions), if any."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None


class RowError(Exception):
    """Why a row is no conversation; ``hint``: the way out, where it is not a row of another form."""

    def __init__(self, cause: str, hint: str = "") -> None:
        super().__init__(cause)
        self.hint = hint


def conversation(row: Mapping[str, Any]) -> Conversation:
    """The conversation of a row.

    Raises:
        RowError: it has none of the known forms, several at once, or a message that cannot be shown.
    """
    given = [name for name in FORMS if name in row]
    if "prompt" in given and "messages" in given and _repeats(row):
        given.remove("prompt")
    if len(given) != 1:
        raise RowError(
            f"a row has one of {', '.join(repr(name) for name in FORMS)}, this one {_these(given)}"
        )
    messages = FORMS[given[0]](row)
    system = row.get("system") or ""
    if not isinstance(system, str):
        raise _no_text(system, "system")
    if system.strip() and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    _check(messages)
    return Conversation(messages, _tools(row.get("tools")))


def _repeats(row: Mapping[str, Any]) -> bool:
    """Whether a row's prompt only says again what the user says first in its messages, as on the Hub."""
    messages = row["messages"] if isinstance(row["messages"], list) else []
    asked = [one.get("content") for one in messages if isinstance(one, dict) and one.get("role") == "user"]
    return asked[:1] == [row["prompt"]]


def _these(names: list[str]) -> str:
    return f"has {' and '.join(names)}" if names else "has none"


def _from_prompt(row: Mapping[str, Any]) -> list[Message]:
    messages: list[Message] = [{"role": "user", "content": _said(row, "prompt")}]
    if row.get("response") is not None:
        messages.append({"role": "assistant", "content": _said(row, "response")})
    return messages


def _from_messages(row: Mapping[str, Any]) -> list[Message]:
    return _listed(row["messages"], "messages")


def _from_sharegpt(row: Mapping[str, Any]) -> list[Message]:
    messages = []
    for turn in _listed(row["conversations"], "conversations"):
        if not {"from", "value"} <= turn.keys():
            raise RowError("a turn of 'conversations' has 'from' and 'value'")
        sender = turn["from"]
        if sender not in SENDERS:
            raise RowError(f"'from' is {sender!r}: none of {', '.join(SENDERS)}")
        messages.append({"role": SENDERS[sender], "content": _said(turn, "value")})
    return messages


FORMS: dict[str, Callable[[Mapping[str, Any]], list[Message]]] = {
    "prompt": _from_prompt,
    "messages": _from_messages,
    "conversations": _from_sharegpt,
}


def _listed(value: Any, name: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise RowError(f"{name!r} must be a non-empty list")
    for item in value:
        if not isinstance(item, dict):
            raise RowError(f"each item of {name!r} must be an object")
    return value


def _check(messages: list[Message]) -> None:
    for message in messages:
        if not {"role", "content"} <= message.keys() <= {"role", "content"} | EXTRAS:
            extras = ", ".join(sorted(EXTRAS))
            raise RowError(f"a message has 'role' and 'content', and of others only {extras}")
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise RowError(f"role {role!r} is none of {', '.join(ROLES)}")
        calls = role == "assistant" and message.get("tool_calls")
        if calls and not _name_functions(calls):
            raise RowError(f"'tool_calls' must be {FUNCTIONS}")
        if calls and (content is None or isinstance(content, str)):
            continue  # an answer may be nothing but a call
        _said(message, "content")
    if not any(message["role"] == "user" for message in messages):
        raise RowError("a conversation needs a user message")


def _said(row: Mapping[str, Any], name: str) -> str:
    """What the field ``name`` has somebody say: text that is not blank."""
    if not isinstance(row[name], str) or not row[name].strip():
        raise _no_text(row[name], name)
    return str(row[name])


def _no_text(value: Any, name: str) -> RowError:
    if isinstance(value, list):
        return RowError(f"{name!r} is a list of parts, but only text is read", "join its texts into one")
    return RowError(f"{name!r} must be a non-empty string")


def _name_functions(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict)
        and isinstance(item.get("function"), dict)
        and isinstance(item["function"].get("name"), str)
        for item in value
    )


def _tools(value: Any) -> list[dict[str, Any]] | None:
    if isinstance(value, str):  # Arrow cannot hold tools of different shapes, so data sets quote them
        try:
            value = json.loads(value) if value.strip() else None
        except ValueError as error:
            raise RowError(f"'tools' is text that is not JSON: {error}") from error
    if value is None or value == []:
        return None
    if not _name_functions(value):
        raise RowError(f"'tools' must be {FUNCTIONS}, as the chat API takes them", TOOL)
    tools: list[dict[str, Any]] = value
    return tools
