"""The forms of rows that people bring, and what is refused instead of guessed."""

from __future__ import annotations

from typing import Any

import pytest

from speculators.datagen.rows import RowError, conversation

USER = {"role": "user", "content": "Why?"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}


def turn(sender: str, value: str = "x") -> dict[str, str]:
    return {"from": sender, "value": value}


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"prompt": "Why?"}, [USER]),
        ({"prompt": "Why?", "response": "So."}, [USER, {"role": "assistant", "content": "So."}]),
        ({"prompt": "Why?", "system": "Be brief."}, [{"role": "system", "content": "Be brief."}, USER]),
        ({"messages": [USER, CALL]}, [USER, CALL]),
        ({"messages": [USER, {**CALL, "content": "\n"}]}, [USER, {**CALL, "content": "\n"}]),
        (
            {
                "conversations": [
                    turn("system", "S"),
                    turn("human", "Why?"),
                    turn("gpt", "So."),
                    turn("human", "And?"),
                ]
            },
            [
                {"role": "system", "content": "S"},
                USER,
                {"role": "assistant", "content": "So."},
                {"role": "user", "content": "And?"},
            ],
        ),
        (
            {"conversations": [turn("human"), turn("function", "42"), turn("gpt")], "system": "S"},
            [
                {"role": "system", "content": "S"},
                {"role": "user", "content": "x"},
                {"role": "tool", "content": "42"},
                {"role": "assistant", "content": "x"},
            ],
        ),
    ],
)
def test_every_form_becomes_messages(row: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    assert conversation(row).messages == messages


def test_a_system_message_is_not_said_twice() -> None:
    messages = [{"role": "system", "content": "mine"}, USER]
    assert conversation({"messages": messages, "system": "other"}).messages == messages


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({}, "this one has none"),
        ({"prompt": "a", "messages": [USER]}, "this one has prompt and messages"),
        ({"messages": "a"}, "'messages' must be a non-empty list"),
        ({"messages": ["a"]}, "each item of 'messages' must be an object"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "role 'bot' is none of"),
        ({"messages": [{**USER, "weight": 1}]}, "and of others only name, reasoning, reasoning_content"),
        ({"messages": [{"role": "user", "content": None}]}, "'content' must be a non-empty string"),
        ({"messages": [USER, {**CALL, "tool_calls": [{"name": "f"}]}]}, "'tool_calls' must be a list"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "needs a user message"),
        ({"conversations": [turn("narrator")]}, "'from' is 'narrator': none of human"),
        ({"conversations": [{"role": "user", "content": "x"}]}, "has 'from' and 'value'"),
        ({"prompt": 3}, "'prompt' must be a non-empty string"),
        ({"prompt": "a", "response": ""}, "'response' must be a non-empty string"),
        ({"conversations": [turn("human", " ")]}, "'value' must be a non-empty string"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, "is a list of parts"),
        ({"messages": [USER, {**CALL, "content": 3}]}, "'content' must be a non-empty string"),
        ({"prompt": "a", "system": 3}, "'system' must be a non-empty string"),
        ({"prompt": "a", "system": ["x"]}, "'system' is a list of parts"),
        ({"prompt": "a", "tools": {"name": "f"}}, "'tools' must be a list of objects"),
        ({"prompt": "a", "tools": [{"name": "f"}]}, "each with a 'function' that has a 'name'"),
    ],
)
def test_nothing_is_guessed(row: dict[str, Any], cause: str) -> None:
    with pytest.raises(RowError, match=cause.replace("(", r"\(")):
        conversation(row)
