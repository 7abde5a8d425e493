"""Prompts of files: written by people or datasets, so every complaint names file and line or row.

A row is a conversation in one of the forms of ``rows``, with an ``id`` and a ``topic`` where the data has
them.  Without an id it is called after its file and line; without a topic it is a topic of its own, so that
the validation split is one by row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from speculators.datagen.prompt_files import EXAMPLE, read_rows
from speculators.datagen.prompt_sets import AS_THEY_ARE, Columns, as_columns
from speculators.datagen.rows import Message, RowError, conversation
from speculators.errors import RecipeError

__all__ = ["Prompt", "question", "read_prompts"]


class Prompt(NamedTuple):
    """One conversation to answer.  ``group`` is its topic; ``source`` is "file", "magpie" or "random".

    ``tools``: what the model is offered, as the chat API takes it.  ``dataset``: of a benchmark's prompt the
    set that it is of; "" where there is one file only.
    """

    id: str
    source: str
    group: str
    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    dataset: str = ""

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
            **({"dataset": self.dataset} if self.dataset else {}),
        }


def question(messages: list[Message]) -> list[Message]:
    """The conversation up to what is to be answered: without a last answer that the data may bring."""
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def read_prompts(
    paths: Sequence[Path], columns: Columns = AS_THEY_ARE, only: str = "", first: int | None = None
) -> list[Prompt]:
    """All prompts of the files, in order.

    ``columns``: which column is what, where rows are of no form of ``rows``; ``only``: the topic to keep;
    ``first``: how many rows of each file are read, all where it is None.

    Raises:
        RecipeError: a file is missing or a row is malformed or repeats an id; names file and line.
    """
    prompts: list[Prompt] = []
    places: dict[str, str] = {}
    stems: Counter[str] = Counter()
    for path in paths:
        stems[path.stem] += 1  # many a dataset has a train-00000-of-00001
        stem = path.stem if stems[path.stem] == 1 else f"{path.stem}.{stems[path.stem]}"
        for number, row in islice(read_rows(path), first):
            place = f"{path}:{number}"
            if only and isinstance(row, dict) and row.get(columns.topic) != only:
                continue
            prompt = _prompt(row, place, f"{stem}-{number}", columns)
            if prompt.id in places:
                raise _error(place, f"id {prompt.id!r} was used before, at {places[prompt.id]}")
            places[prompt.id] = place
            prompts.append(prompt)
    return prompts


def _prompt(row: Any, place: str, unnamed: str, columns: Columns) -> Prompt:
    """The prompt in ``row``; one without an id is called ``unnamed``."""
    if not isinstance(row, dict):
        raise _error(place, "a row must be a JSON object")
    try:
        row = as_columns(row, columns)
        for key in ("id", "topic"):
            if key in row and (not isinstance(row[key], str) or not row[key]):
                raise RowError(f"{key!r} must be a non-empty string")
        asked = conversation(row)
    except RowError as error:
        raise _error(place, str(error), error.hint) from error
    name = str(row.get("id", unnamed))
    return Prompt(name, "file", str(row.get("topic", name)), asked.messages, asked.tools)


def _error(place: str, cause: str, hint: str = "") -> RecipeError:
    return RecipeError(
        f"{place}: {cause}",
        hint=hint or EXAMPLE,
        rule="prompts",
    )
