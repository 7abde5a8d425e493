"""A ``run.yaml`` of the reference system as a recipe: what it says, and what cannot be said."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from speculators.cli.app import main
from speculators.errors import RecipeError
from speculators.recipe.diagnostics import has_errors, render_all
from speculators.recipe.facts import find_facts
from speculators.recipe.recipe import load_recipe
from speculators.recipe.reference_fields import ALWAYS, COMPUTED, DIFFERS, FIELDS, NEEDLESS, RENAMED
from speculators.recipe.reference_run import (
    Run,
    Translation,
    is_reference_run,
    translate,
    verifier_block,
)
from speculators.recipe.schema import load_schema, schema_at
from speculators.recipe.yaml_loader import load_yaml
from speculators.recipe.yaml_writer import dump_yaml
from tests.recipe.reference_runs import DRAFTS, beside, named


def translated(train: dict[str, Any]) -> Translation:
    run = Run({"train": train}, "run.yaml")
    return translate(run, find_facts(verifier_block(run), Path(), {}))


def test_every_field_is_in_one_table_and_goes_to_a_place_that_exists() -> None:
    counts = Counter([*RENAMED, *COMPUTED, *DIFFERS, *NEEDLESS])
    assert set(counts.values()) == {1}
    assert set(counts) == FIELDS
    for path, _ in (RENAMED | COMPUTED).values():
        assert schema_at(load_schema(), tuple(path.split("."))) is not None, path
    assert all(set(names) <= set(DIFFERS) for names in ALWAYS.values())


@pytest.mark.parametrize("kind", DRAFTS)
def test_what_nobody_gave_is_the_references_default_not_ours(kind: str, tmp_path: Path) -> None:
    data, _ = translated(named(kind))
    training = data["training"]
    assert (training["epochs"], training["learning_rate"], training["optimizer"]) == (20, 1e-3, "muon")
    assert (training["sequence_length"], training["schedule"], training["seed"]) == (8192, "linear", 42)
    assert data["algorithm"]["aux_layers"] == [2, 18, 33]
    assert data["datagen"]["prompts"]["validation_fraction"] == 0.1
    recipe, diagnostics = load_recipe(beside(tmp_path), text=dump_yaml(data))
    assert recipe is not None, render_all(diagnostics)


def test_an_eagle3_run_keeps_its_values() -> None:
    train = named("eagle3")
    train["loss"] = {"loss_fn": '{"ce": 0.1, "tv": 0.9}', "ttt_steps": 5, "ttt_step_loss_decay": 0.8}
    train["draft"] |= {"target_layer_ids": [1, 9, 20], "norm_output": False}
    train["scheduler"] = {"scheduler_type": "none", "scheduler_warmup_ratio": 0.03}
    train["logging"] = {"logger": "tensorboard, trackio"}
    train["trainer"] = {"fsdp_shard": True, "max_steps": 100}
    data, account = translated(train)
    assert data["algorithm"] == {
        "kind": "eagle3", "speculative_tokens": 5, "aux_layers": [1, 9, 20], "layers": 1,
        "draft_vocabulary": 32000, "norm_before_residual": True, "norm_before_fc": True, "fc_norm": False,
        "norm_output": False,
    }  # fmt: skip
    assert data["training"]["losses"] == {"cross_entropy": 0.1, "total_variation": 0.9}
    assert data["training"]["step_decay"] == 0.8
    assert (data["training"]["schedule"], data["training"]["warmup_fraction"]) == ("constant", 0.03)
    assert (data["training"]["parallelism"], data["training"]["trackers"]) == ("fsdp", ["tensorboard"])
    told = "\n".join(account)
    assert "trainer.max_steps: 100 DIFFERS: there is no such limit" in told
    assert "logging.logger DIFFERS: trackio cannot follow a training here" in told
    assert "draft.sliding_window (its default) DIFFERS" in told


def test_every_given_value_has_a_line() -> None:
    train = named("dflash")
    train["generation"] = {"on_missing": "raise"}
    train["surprise"] = {"new": 1}
    given = Run({"train": train}, "").given
    _, account = translated(train)
    for name in given:
        assert sum(line.startswith(f"{name}:") for line in account) >= 1, name
    assert "surprise.new: 1 left out: no field of the reference's 0.9.0" in account


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speculator_type": "xpress"}, "speculator_type is 'xpress', which is not trained here"),
        ({"verifier": {}}, "it names no verifier"),
        ({"verifier": {"verifier_name_or_path": "nobody/knows"}}, "draft.target_layer_ids was left to the"),
        ({"loss": {"loss_fn": "nla"}}, "loss.loss_fn is 'nla'"),
        ({"loss": {"ttt_steps": "three"}}, "loss.ttt_steps is 'three', which is no number"),
        ({"scheduler": {"scheduler_type": "wsd"}}, "scheduler.scheduler_type is 'wsd'"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_refused_with_a_way_out(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=r"run\.yaml: ") as caught:
        translated({**named("eagle3"), **change})
    assert message in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_a_run_that_started_from_a_draft_takes_its_shape_from_there() -> None:
    train = named("eagle3")
    train["draft"] = {"from_pretrained": "owner/draft"}
    data, _ = translated(train)
    assert data["training"]["init_from"] == "owner/draft@main"
    assert data["algorithm"] == {"kind": "eagle3", "speculative_tokens": 3}


def test_show_prints_a_recipe_that_check_accepts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    beside(tmp_path)
    Path("run.yaml").write_text(dump_yaml({"train": named("eagle3")}))
    assert main(["show", "run.yaml"]) == 0
    shown = capsys.readouterr()
    assert "values are accounted for in its last lines, 1 of" in shown.err
    Path("mine.yaml").write_text(shown.out)
    assert main(["check", "mine.yaml"]) == 0
    assert not has_errors(load_recipe(Path("mine.yaml")).diagnostics)


def test_a_run_yaml_given_as_a_recipe_is_told_from_a_broken_one(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(dump_yaml({"train": named("eagle3")}))
    recipe, diagnostics = load_recipe(tmp_path / "run.yaml")
    assert recipe is None
    assert [one.rule for one in diagnostics] == ["run-yaml"]
    assert "speculators show" in diagnostics[0].hint


def test_a_recipe_is_no_run_of_the_reference() -> None:
    recipe = load_yaml("schema: speculators/recipe/v1\nname: x\n", "x").data
    assert not is_reference_run(recipe)
    assert not is_reference_run({"train": [1]})
    assert not is_reference_run(None)
