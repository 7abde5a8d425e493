"""Prompt files: JSON lines written by people, so every complaint names file and line.

A row is ``{"id", "topic", "prompt"}`` or ``{"id", "topic", "messages": [{"role", "content"}, ...]}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speculators.errors import RecipeError

__all__ = ["Prompt", "question", "read_prompts"]

ROLES = ("system", "user", "assistant")


class Prompt(NamedTuple):
    """One conversation to answer.  ``group`` is its topic; ``source`` is "file" or "magpie"."""

    id: str
    source: str
    group: str
    messages: list[dict[str, str]]

    @property
    def text(self) -> str:
        """What the user said, by which prompts are compared."""
        return "\n".join(message["content"] for message in self.messages if message["role"] == "user")

    def row(self, split: str) -> dict[str, Any]:
        """The prompt as a row of the prompts stage."""
        return {
            "id": self.id,
            "source": self.source,
            "group": self.group,
            "split": split,
            "messages": self.messages,
        }


def question(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The conversation up to what is to be answered: without a last answer that the data may bring."""
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def read_prompts(paths: Sequence[Path]) -> list[Prompt]:
    """All prompts of the files, in order.

    Raises:
        RecipeError: a file is missing or a row is malformed or repeats an id; names file and line.
    """
    prompts: list[Prompt] = []
    places: dict[str, str] = {}
    for path in paths:
        for number, line in _lines(path):
            place = f"{path}:{number}"
            prompt = _prompt(line, place)
            if prompt.id in places:
                raise _error(place, f"id {prompt.id!r} was used before, at {places[prompt.id]}")
            places[prompt.id] = place
            prompts.append(prompt)
    return prompts


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"{path}: cannot be read: {error}", hint="prompt files are JSON lines in UTF-8", rule="prompts"
        ) from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def _prompt(line: str, place: str) -> Prompt:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise _error(f"{place}:{error.colno}", f"not JSON: {error.msg}") from error
    if not isinstance(row, dict):
        raise _error(place, "a row must be a JSON object")
    for key in ("id", "topic"):
        if not isinstance(row.get(key), str) or not row[key]:
            raise _error(place, f"{key!r} must be a non-empty string")
    if ("prompt" in row) == ("messages" in row):
        raise _error(place, "a row has either 'prompt' or 'messages'")
    messages = row["messages"] if "messages" in row else [{"role": "user", "content": row["prompt"]}]
    _check_messages(messages, place)
    return Prompt(row["id"], "file", row["topic"], messages)


def _check_messages(messages: Any, place: str) -> None:
    if not isinstance(messages, list) or not messages:
        raise _error(place, "'messages' must be a non-empty list")
    for message in messages:
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            raise _error(place, "a message has exactly 'role' and 'content'")
        if message["role"] not in ROLES:
            raise _error(place, f"role {message['role']!r} is none of {', '.join(ROLES)}")
        if not isinstance(message["content"], str) or not message["content"].strip():
            raise _error(place, "'content' must be a non-empty string")
    if not any(message["role"] == "user" for message in messages):
        raise _error(place, "a conversation needs a user message")


def _error(place: str, cause: str) -> RecipeError:
    return RecipeError(
        f"{place}: {cause}",
        hint='rows look like {"id": "tides-1", "topic": "tides", "prompt": "Why are there two tides a day?"}',
        rule="prompts",
    )
