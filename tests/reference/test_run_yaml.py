"""The reference's own settings and its own ``run.yaml``, against what is made of them here."""

from __future__ import annotations

from pathlib import Path

import pytest

from speculators.recipe.facts import find_facts
from speculators.recipe.recipe import load_recipe
from speculators.recipe.reference_fields import COMPUTED, FIELDS, RENAMED
from speculators.recipe.reference_run import Run, translate, verifier_block
from speculators.recipe.yaml_loader import load_yaml
from speculators.recipe.yaml_writer import dump_yaml
from tests.recipe.reference_runs import DRAFTS, beside
from tests.reference.environment import Side

pytestmark = pytest.mark.integration


def test_every_setting_of_the_reference_is_accounted_for(reference: Side) -> None:
    fields = reference.ask("fields")["fields"]
    assert set(fields) == FIELDS
    ours = {name: default for name, (_, default) in (RENAMED | COMPUTED).items()}
    assert ours == {name: fields[name] for name in ours}


@pytest.mark.parametrize("kind", DRAFTS)
def test_the_file_that_it_writes_becomes_a_sound_recipe(kind: str, reference: Side, tmp_path: Path) -> None:
    flags = {"speculator_type": kind, "verifier_name_or_path": "Qwen/Qwen3-8B", **DRAFTS[kind]}
    flags |= {"epochs": 4, "lr": 3e-4, "save_best": True, "train_data_ratio": 0.8}
    data = load_yaml(reference.ask("run_yaml", flags=flags)["text"], "run.yaml").data
    run = Run(data, "run.yaml")
    said = translate(run, find_facts(verifier_block(run), Path(), {})).data
    recipe, diagnostics = load_recipe(beside(tmp_path), text=dump_yaml(said))
    assert recipe is not None, diagnostics
    assert recipe.data["training"]["epochs"] == 4
    assert recipe.data["datagen"]["prompts"]["validation_fraction"] == 0.2
