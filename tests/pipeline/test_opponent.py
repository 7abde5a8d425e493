"""What ``--against`` names: measurements, and drafts that are measured beside ours."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from speculators.benchmark.measurement import BASELINE_SCHEMA
from speculators.checkpoint.config import checkpoint_digest, localised
from speculators.documents import read_json, write_json
from speculators.errors import RecipeError
from speculators.pipeline.opponent import named, text_at
from speculators.recipe.recipe import Recipe, require_recipe

SHIPPED = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    shutil.copytree(SHIPPED, tmp_path / "recipes")
    return require_recipe(tmp_path / "recipes" / "smollm2-135m-eagle3.yaml")


def a_checkpoint(folder: Path, **others: int) -> Path:
    """A draft of SmolLM2, as far as its config is read here."""
    document = {
        "speculators_model_type": "eagle3",
        "speculators_config": {
            "proposal_methods": [{"speculative_tokens": 5}],
            "verifier": {"name_or_path": "smollm2"},
        },
        "eagle_aux_hidden_state_layer_ids": [2, 15, 27],
        "transformer_layer_config": {"hidden_size": 576, "vocab_size": 49152, **others},
    }
    write_json(folder / "config.json", document)
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_checkpoint_of_another_verifier_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"theirs: a draft of another verifier: .*vocabulary \(32000 against"
    ):
        named(str(a_checkpoint(tmp_path / "theirs", vocab_size=32000)), recipe, tmp_path / "home")


def test_a_checkpoint_that_says_too_little_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    folder = a_checkpoint(tmp_path / "theirs")
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "speculators_config": {}})
    with pytest.raises(RecipeError, match="speculators_config lacks 'proposal_methods'") as caught:
        named(str(folder), recipe, tmp_path / "home")
    assert "inspect" in (caught.value.hint or "")
    write_json(folder / "config.json", {**config, "transformer_layer_config": {}})
    with pytest.raises(RecipeError, match=r"not the config of a draft \(KeyError"):
        named(str(folder), recipe, tmp_path / "home")


def test_a_checkpoint_is_measured_beside_ours(recipe: Recipe, tmp_path: Path) -> None:
    found = named(str(a_checkpoint(tmp_path / "theirs")), recipe, tmp_path / "home").base
    assert found is not None
    assert (found.name, found.tokens, found.engine) == ("theirs", 5, recipe.data["engine"])


def test_a_checkpoint_is_told_by_its_draft_and_not_by_its_place(recipe: Recipe, tmp_path: Path) -> None:
    sealed, served, other = (a_checkpoint(tmp_path / name) for name in ("sealed", "served", "other"))
    config = read_json(sealed / "config.json")
    config["speculators_config"]["verifier"] = {"name_or_path": "smollm2@1", "id": "smollm2@1"}
    write_json(sealed / "config.json", config)
    write_json(served / "config.json", localised(config, tmp_path / "verifier"))
    found = named(str(served), recipe, tmp_path / "home").base
    assert found is not None
    assert found.digest == checkpoint_digest(sealed)
    (other / "model.safetensors").write_bytes(b"others")
    assert len({checkpoint_digest(one) for one in (served, other, a_checkpoint(tmp_path / "theirs"))}) == 3


def test_a_checkpoint_whose_verifier_has_no_id_is_taken_as_it_is(recipe: Recipe, tmp_path: Path) -> None:
    folder = a_checkpoint(tmp_path / "theirs")
    config = read_json(folder / "config.json")
    config["speculators_config"]["verifier"]["id"] = None
    write_json(folder / "config.json", config)
    assert named(str(folder), recipe, tmp_path / "home").base


def a_baseline(path: Path, rounds: int) -> str:
    loads = [{"concurrency": 1, "speedups": [1.2] * rounds, "drafting": []}] if rounds else []
    document: dict[str, object] = {name: {} for name in ("work", "machine", "instrument", "settings")}
    document |= {"schema": BASELINE_SCHEMA, "run": "r", "recipe": "x", "loads": loads, "answers": []}
    write_json(path, document)
    return str(path)


def test_a_baseline_file_counts_as_stored(recipe: Recipe, tmp_path: Path) -> None:
    found = named(a_baseline(tmp_path / "baseline.json", 5), recipe, tmp_path / "home")
    assert found.base is None
    assert found.stored is not None
    assert found.stored.run == "r"


@pytest.mark.parametrize(
    ("rounds", "reason"),
    [(0, "no load with a speed"), (1, "r has one round"), (4, "r has 4 rounds, and a baseline needs 5")],
)
def test_a_baseline_of_few_rounds_is_none_and_the_command_for_more_is_named(
    recipe: Recipe, tmp_path: Path, rounds: int, reason: str
) -> None:
    with pytest.raises(RecipeError, match=reason) as caught:
        named(a_baseline(tmp_path / "few.json", rounds), recipe, tmp_path / "home")
    assert caught.value.rule == "no-baseline"
    assert f"{recipe.path} --only benchmark --set benchmark.rounds=12" in (caught.value.hint or "")


def test_a_recipe_whose_draft_was_not_made_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="its draft is not in the store"):
        named(str(recipe.path), recipe, tmp_path / "home")


def test_a_recipe_of_another_verifier_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    other = recipe.path.with_name("other.yaml")
    other.write_text(recipe.sources[0].text.replace("Q4_1", "Q8_0"))
    with pytest.raises(RecipeError, match=r"other.yaml: its verifier is .*Q8_0.*, here .*Q4_1"):
        named(str(other), recipe, tmp_path / "home")


def test_a_recipe_may_ask_otherwise_for_it_is_asked_what_this_run_asks(
    recipe: Recipe, tmp_path: Path
) -> None:
    other = recipe.path.with_name("other.yaml")
    other.write_text(recipe.sources[0].text.replace("requests: 16", "requests: 8"))
    with pytest.raises(RecipeError, match="its draft is not in the store"):  # which is looked up last
        named(str(other), recipe, tmp_path / "home")


def test_a_git_ref_is_the_recipe_as_it_was_there(recipe: Recipe, tmp_path: Path) -> None:
    def git(*words: str) -> None:
        who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        subprocess.run(["git", *who, *words], cwd=recipe.path.parent, check=True, capture_output=True)

    git("init", "-b", "main")
    git("add", ".")
    git("commit", "-m", "first")
    recipe.path.write_text("changed since")
    assert text_at("main", recipe.path) == recipe.sources[0].text
    with pytest.raises(RecipeError, match=r"--against main: its draft is not in the store"):
        named("main", recipe, tmp_path / "home")


def test_nothing_of_that_name_says_what_can_be_named(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="nothing of that name") as caught:
        named("no-such-thing", recipe, tmp_path / "home")
    assert "a git ref" in (caught.value.hint or "")


def test_a_ref_of_a_recipe_that_extends_another_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    child = recipe.path.with_name("child.yaml")
    child.write_text(f"schema: speculators/recipe/v1\nname: child\nextends: ./{recipe.path.name}\n")
    for words in (
        ["init"],
        ["add", "."],
        ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-m", "first"],
    ):
        subprocess.run(["git", *words], cwd=child.parent, check=True, capture_output=True)
    with pytest.raises(RecipeError, match="--against HEAD: this recipe extends another"):
        named("HEAD", require_recipe(child), tmp_path / "home")


def test_a_recipe_without_a_draft_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    other = recipe.path.with_name("smollm2-135m-ngram.yaml")
    with pytest.raises(RecipeError, match="its kind 'ngram' has no draft"):
        named(str(other), recipe, tmp_path / "home")


def test_a_recipe_of_containers_asks_for_the_checkpoint_itself(recipe: Recipe, tmp_path: Path) -> None:
    docker = require_recipe(recipe.path, ("executor=docker",))
    with pytest.raises(RecipeError, match="made in containers is not found by its recipe"):
        named(str(recipe.path), docker, tmp_path / "home")


def test_a_model_of_the_same_words_in_another_folder_is_another(recipe: Recipe, tmp_path: Path) -> None:
    places = []
    for name in ("one", "two"):
        folder = tmp_path / name
        shutil.copytree(SHIPPED / "prompts", folder / "prompts")
        (folder / "m").mkdir()
        (folder / "m" / "config.json").write_text("{}")
        text = recipe.sources[0].text
        before, _, after = text.partition("verifier:")
        rest = after[after.index("\nalgorithm:") :]
        (folder / "x.yaml").write_text(f"{before}verifier: {{path: ./m}}{rest}")
        places.append(folder / "x.yaml")
    with pytest.raises(RecipeError, match="its verifier is"):
        named(str(places[1]), require_recipe(places[0]), tmp_path / "home")


def test_a_relative_checkpoint_is_where_it_was_named(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_checkpoint(tmp_path / "theirs")
    monkeypatch.chdir(tmp_path)
    found = named("theirs", recipe, tmp_path / "home").base
    assert found is not None
    assert found.draft == tmp_path / "theirs"
