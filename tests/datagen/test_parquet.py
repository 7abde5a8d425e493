"""Prompts in Parquet, as datasets on the Hub have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from speculators.datagen.parquet import parquet_rows
from speculators.datagen.prompts import read_prompts
from speculators.errors import RecipeError
from tests.needs import needed

pyarrow = needed("pyarrow")

ASKED = {"role": "user", "content": "Why two tides?"}
CALL = [{"id": "1", "type": "function", "function": {"name": "tide", "arguments": "{}"}}]
ROWS: list[dict[str, Any]] = [
    {
        "prompt_id": "a", "prompt": "Why two tides?", "tools": None,
        "messages": [ASKED, {"role": "assistant", "content": "The Moon."}],
    },
    {
        "prompt_id": "b", "prompt": "Why two tides?",
        "tools": '[{"type": "function", "function": {"name": "tide"}}]',
        "messages": [ASKED, {"role": "assistant", "content": None, "tool_calls": CALL}],
    },
]  # fmt: skip


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_rows_read_as_their_json_lines_would(tmp_path: Path) -> None:
    path = written(tmp_path / "data.parquet", ROWS)
    first, second = read_prompts([path])
    assert first.messages == ROWS[0]["messages"]  # Arrow's empty tool_calls of a plain answer are gone
    assert second.messages == ROWS[1]["messages"]
    assert (first.tools, second.tools) == (None, [{"type": "function", "function": {"name": "tide"}}])
    assert [first.id, second.id] == ["data-1", "data-2"]
    assert parquet_rows(path) == 2


def test_files_of_one_name_keep_their_rows_apart(tmp_path: Path) -> None:
    paths = [tmp_path / name / "data.parquet" for name in ("one", "two")]
    for path in paths:
        path.parent.mkdir()
        written(path, ROWS[:1])
    assert [one.id for one in read_prompts(paths)] == ["data-1", "data.2-1"]


def test_a_prompt_that_is_not_the_first_message_is_a_second_form(tmp_path: Path) -> None:
    path = written(tmp_path / "data.parquet", [{"prompt": "Other?", "messages": [ASKED]}])
    with pytest.raises(RecipeError, match=r"data\.parquet:1: a row has one of"):
        read_prompts([path])


def test_tools_that_are_no_json_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "data.parquet", [{"prompt": "Why?", "tools": "[tide"}])
    with pytest.raises(RecipeError, match=r"data\.parquet:1: 'tools' is text that is not JSON"):
        read_prompts([path])


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.parquet").write_text("no parquet")
    with pytest.raises(RecipeError, match=r"data\.parquet: cannot be read") as caught:
        read_prompts([tmp_path / "data.parquet"])
    assert caught.value.hint
