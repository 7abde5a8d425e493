"""Prompt files: JSON lines written by people, or Parquet, so every complaint names file and line or row.

A row is a conversation in one of the forms of ``rows``, with an ``id`` and a ``topic`` where the data has
them.  Without an id it is called after its file and line; without a topic it is a topic of its own, so that
the validation split is one by row.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speculators.datagen.parquet import is_parquet, read_parquet
from speculators.datagen.rows import Message, RowError, conversation
from speculators.errors import RecipeError

__all__ = ["Prompt", "question", "read_prompts"]


class Prompt(NamedTuple):
    """One conversation to answer.  ``group`` is its topic; ``source`` is "file" or "magpie".

    ``tools``: what the model is offered, as the chat API takes it.
    """

    id: str
    source: str
    group: str
    messages: list[Message]
    tools: list[dict[str, Any]] | None = None

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
            **({"tools": self.tools} if self.tools else {}),
        }


def question(messages: list[Message]) -> list[Message]:
    """The conversation up to what is to be answered: without a last answer that the data may bring."""
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def read_prompts(paths: Sequence[Path]) -> list[Prompt]:
    """All prompts of the files, in order.

    Raises:
        RecipeError: a file is missing or a row is malformed or repeats an id; names file and line.
    """
    prompts: list[Prompt] = []
    places: dict[str, str] = {}
    stems: Counter[str] = Counter()
    for path in paths:
        stems[path.stem] += 1  # many a dataset has a train-00000-of-00001
        stem = path.stem if stems[path.stem] == 1 else f"{path.stem}.{stems[path.stem]}"
        for number, row in _rows(path):
            place = f"{path}:{number}"
            prompt = _prompt(row, place, f"{stem}-{number}")
            if prompt.id in places:
                raise _error(place, f"id {prompt.id!r} was used before, at {places[prompt.id]}")
            places[prompt.id] = place
            prompts.append(prompt)
    return prompts


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """The rows of a file with their line, or in a Parquet file their number, from 1."""
    if is_parquet(path):
        yield from enumerate(read_parquet(path), start=1)
        return
    for number, line in _lines(path):
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise _error(f"{path}:{number}:{error.colno}", f"not JSON: {error.msg}") from error


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


def _prompt(row: Any, place: str, unnamed: str) -> Prompt:
    """The prompt in ``row``; one without an id is called ``unnamed``."""
    if not isinstance(row, dict):
        raise _error(place, "a row must be a JSON object")
    for key in ("id", "topic"):
        if key in row and (not isinstance(row[key], str) or not row[key]):
            raise _error(place, f"{key!r} must be a non-empty string")
    try:
        asked = conversation(row)
    except RowError as error:
        raise _error(place, str(error)) from error
    name = str(row.get("id", unnamed))
    return Prompt(name, "file", str(row.get("topic", name)), asked.messages, asked.tools)


def _error(place: str, cause: str) -> RecipeError:
    return RecipeError(
        f"{place}: {cause}",
        hint='rows look like {"id": "tides-1", "topic": "tides", "prompt": "Why are there two tides a day?"}',
        rule="prompts",
    )
