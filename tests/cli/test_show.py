"""Recipes shown: as they are written, or as they come out with the place of every value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from speculators.cli import app
from speculators.recipe.recipe import require_recipe
from speculators.recipe.yaml_loader import load_yaml

RECIPES = Path(__file__).parents[2] / "recipes"
SMOLLM = RECIPES / "smollm2-135m-eagle3.yaml"

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def test_the_list_names_every_recipe_that_ships(capsys: Captured) -> None:
    assert app.main(["show", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = sorted(path.stem for path in RECIPES.glob("*.yaml") if not path.stem.endswith(".lock"))
    assert [line.split()[0] for line in lines] == expected
    assert all(len(line.split()) > 3 for line in lines)  # each has its description


def test_a_copy_keeps_every_comment_and_runs_with_what_it_says_to_put_beside_it(
    tmp_path: Path, capsys: Captured
) -> None:
    assert app.main(["show", "smollm2-135m-eagle3"]) == 0
    shown = capsys.readouterr()
    assert shown.out == SMOLLM.read_text()
    copy = shown.err.splitlines()[0].rpartition("cp -r ")[2].split()
    assert copy == [str(RECIPES / "prompts"), "."]
    (tmp_path / "prompts").symlink_to(copy[0])
    (tmp_path / "mine.yaml").write_text(shown.out)
    assert require_recipe(tmp_path / "mine.yaml").data == require_recipe(SMOLLM).data


def test_origin_stands_beside_each_value_and_reads_back_as_the_recipe(capsys: Captured) -> None:
    assert app.main(["show", str(SMOLLM), "--origin", "--set", "training.epochs=2"]) == 0
    text = capsys.readouterr().out
    line = next(n for n, row in enumerate(SMOLLM.read_text().splitlines(), 1) if "learning_rate:" in row)
    places = {row.split(":")[0].strip(): row.rpartition("# ")[2] for row in text.splitlines()}
    assert places["learning_rate"] == f"{SMOLLM}:{line}"
    assert places["epochs"] == "--set[1]"
    assert places["gradient_checkpointing"] == "default"
    assert load_yaml(text, "shown").data == require_recipe(SMOLLM, ["training.epochs=2"]).data


def test_json_has_the_values_and_their_places(capsys: Captured) -> None:
    assert app.main(["show", str(SMOLLM), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["recipe"] == require_recipe(SMOLLM).data
    assert document["origin"]["training.gradient_checkpointing"] == "default"
    assert document["origin"]["benchmark.concurrency"].startswith(f"{SMOLLM}:")


def test_a_setting_alone_asks_for_the_resolved_recipe(capsys: Captured) -> None:
    assert app.main(["show", str(SMOLLM), "--set", "training.epochs=7"]) == 0
    data = load_yaml(capsys.readouterr().out, "shown").data
    assert data["training"]["epochs"] == 7


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["smollm2-135m-eagel3"], "did you mean 'smollm2-135m-eagle3'?"),
        (["nothing-like-it"], "speculators show --list"),
        ([], "give a recipe, or --list"),
        (["smollm2-135m-eagle3", "--list"], "give a recipe, or --list"),
        (["."], "Is a directory"),
    ],
)
def test_what_cannot_be_shown_exits_2_and_says_why(
    arguments: list[str], words: str, capsys: Captured
) -> None:
    assert app.main(["show", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err
