"""From hidden-state shards through both stages to a folder that reads back as the trained draft."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from speculators.checkpoint.check import failures
from speculators.checkpoint.read import read_checkpoint
from speculators.checkpoint.validate import validate
from speculators.checkpoint.vocabulary import from_offsets
from speculators.errors import StageError
from speculators.inspection.replay import replay_checkpoint
from speculators.stages import package, training
from speculators.stages.documents import StageInput, write_output
from speculators.training.architectures import ARCHITECTURES
from tests.models import tiny

VALUES = {"algorithm": tiny.ALGORITHM, "training": tiny.TRAINING, "name": "tiny-eagle3"}


def stage(root: Path, name: str, module, inputs: dict[str, Path], values: dict, files=None) -> dict:
    output = root / name
    output.mkdir(parents=True)
    step = StageInput(name, values, inputs, files or {}, output)
    result = module.run(step)
    shutil.rmtree(step.work, ignore_errors=True)
    write_output(step, result, 0.0)
    return result


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, Path]:
    """The outputs of the stages before training."""
    return tiny.write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory) -> tuple[Path, dict]:
    root = tmp_path_factory.mktemp("training")
    result = stage(root, "training", training, world, VALUES)
    return root / "training", result


@pytest.fixture(scope="module")
def packaged(world, trained, tmp_path_factory) -> tuple[Path, dict]:
    root = tmp_path_factory.mktemp("package")
    result = stage(root, "package", package, {**world, "training": trained[0]}, VALUES)
    return root / "package" / "model", result


def test_the_training_stage_reports_what_it_measured(trained) -> None:
    folder, result = trained
    assert {path.name for path in folder.iterdir()} == {
        "draft.safetensors", "vocabulary.safetensors", "shape.json", "metrics.jsonl", "output.json",
    }  # fmt: skip
    assert [row["name"] for row in result["baselines"]] == ["bigram", "untrained"]
    assert 1 <= result["validation"]["acceptance_length"] <= 3
    assert len(result["validation"]["per_position"]) == tiny.ALGORITHM["speculative_tokens"]
    assert result["data"]["train"]["documents"] + result["data"]["validation"]["documents"] == 16
    assert 0 < result["vocabulary"]["train_coverage"] <= 1
    assert result["tokens_per_second"] > 0
    names = load_file(folder / "draft.safetensors")
    assert "fc.weight" in names
    assert not {"lm_head.weight", "embed_tokens.weight"} & names.keys()
    assert {tensor.dtype for tensor in names.values()} == {torch.float32}


def test_the_package_is_what_was_trained_and_passes_its_own_checks(world, trained, packaged) -> None:
    model, result = packaged
    assert {path.name for path in model.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert failures(validate(model, world["verifier"] / "model")) == []
    assert (model / "model.safetensors").stat().st_mode & 0o044 == 0o044  # a server may be another user
    assert (result["algorithm"], result["speculative_tokens"]) == ("eagle3", 2)
    assert all(check["ok"] or check["severity"] == "warning" for check in result["validation"])
    tensors, state = load_file(model / "model.safetensors"), load_file(trained[0] / "draft.safetensors")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in state.items())
    chosen = load_file(trained[0] / "vocabulary.safetensors")["draft_ids"]
    assert torch.equal(from_offsets(tensors["d2t"]), chosen)
    loaded = read_checkpoint(model)
    assert torch.equal(loaded.draft_ids, chosen)
    assert torch.equal(loaded.draft.fc.weight, state["fc.weight"])
    verifier = json.loads((model / "config.json").read_text())["speculators_config"]["verifier"]
    assert verifier["name_or_path"] == "local:tiny"
    assert (verifier["id"], verifier["digest"]) == ("local:tiny", "ab" * 32)


def test_the_stored_checkpoint_predicts_what_validation_saw(world, trained, packaged) -> None:
    documents = [tiny.document(12 + seed % 4, 4, seed, "validation") for seed in range(0, 16, 4)]
    figures = replay_checkpoint(packaged[0], world["verifier"] / "model", documents)
    # Random tokens are not the random verifier's choices, so only the count of drafts can agree.
    assert figures["speculative_tokens"] == 2
    assert figures["all"]["documents"] == trained[1]["validation"]["documents"] == 4
    assert figures["all"]["drafts"] > 0


@pytest.mark.parametrize("kind", ["peagle", "dflash", "eagle", "hass"])
def test_every_kind_goes_from_states_to_a_checkpoint_that_can_be_replayed(
    kind: str, world, tmp_path: Path
) -> None:
    values = {**VALUES, "algorithm": tiny.ALGORITHMS[kind]}
    if "aux_layers" not in tiny.ALGORITHMS[kind]:
        world = tiny.write_world(tmp_path / "world", layers=())
    result = stage(tmp_path, "training", training, world, values)
    assert result["validation"]["acceptance_length"] >= 1
    inputs = {**world, "training": tmp_path / "training"}
    packed = stage(tmp_path, "package", package, inputs, {**values, "name": kind})
    assert packed["algorithm"] == ARCHITECTURES[kind].format.stored_as
    model = tmp_path / "package" / "model"
    documents = [tiny.document(12 + seed % 4, 4, seed, "validation") for seed in range(0, 16, 4)]
    if kind in ("eagle", "hass"):
        documents = [one._replace(hidden_states=one.hidden_states[:, -1:]) for one in documents]
    figures = replay_checkpoint(model, world["verifier"] / "model", documents)
    assert (figures["speculative_tokens"], figures["all"]["documents"]) == (3, 4)
    method = json.dumps({**ARCHITECTURES[kind].format.serve, "model": "DIR", "num_speculative_tokens": 3})
    assert method in (model / "README.md").read_text()


def test_the_digest_does_not_depend_on_where_the_verifier_lies(
    world, trained, packaged, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "moved"
    elsewhere.symlink_to(world["verifier"], target_is_directory=True)
    again = stage(tmp_path, "package", package, {"verifier": elsewhere, "training": trained[0]}, VALUES)
    assert again["digest"] == packaged[1]["digest"]


def test_the_card_has_valid_front_matter_and_both_ways_to_serve(packaged) -> None:
    card = (packaged[0] / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    fields = yaml.safe_load(front)
    assert fields["library_name"] == "speculators"
    assert "base_model" not in fields  # a local folder is no hub repository
    assert "vllm serve DIR" in body
    assert '--speculative-config \'{"method": "eagle3"' in body
    assert "predicted acceptance length" in body
    assert str(packaged[0]) not in card


def test_a_ready_made_draft_is_copied_without_its_clutter(world, packaged, tmp_path: Path) -> None:
    source = tmp_path / "given"
    source.mkdir()
    document = json.loads((packaged[0] / "config.json").read_text())
    document["auto_map"] = {"": "config.Eagle3SpeculatorConfig"}
    del document["norm_output"]
    document["speculators_config"]["verifier"] = {"name_or_path": "somebody/else", "architectures": []}
    (source / "config.json").write_text(json.dumps(document))
    (source / "config.py").write_text("raise SystemExit")
    (source / "model.safetensors").symlink_to(packaged[0] / "model.safetensors")  # as in a hub cache
    result = stage(tmp_path, "package", package, world, {"name": "given"}, {"draft": [source]})
    model = tmp_path / "package" / "model"
    assert {path.name for path in model.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert not (model / "model.safetensors").is_symlink()
    assert result["speculative_tokens"] == 2
    written = json.loads((model / "config.json").read_text())
    assert written["norm_output"] is False
    assert written["speculators_config"]["verifier"]["id"] == "local:tiny"
    assert "ready-made" in (model / "README.md").read_text()


def test_a_defective_draft_is_refused_with_every_failed_check(world, packaged, tmp_path: Path) -> None:
    source = tmp_path / "given"
    source.mkdir()
    document = json.loads((packaged[0] / "config.json").read_text())
    document["eagle_aux_hidden_state_layer_ids"] = [4, 2, 1]
    document["transformer_layer_config"]["hidden_act"] = "gelu"
    (source / "config.json").write_text(json.dumps(document))
    (source / "model.safetensors").write_bytes((packaged[0] / "model.safetensors").read_bytes())
    with pytest.raises(StageError, match=r"2 of \d+ checks failed: aux layers ascend .*; activation"):
        stage(tmp_path, "package", package, world, {"name": "given"}, {"draft": [source]})


def test_a_kind_that_no_arm_serves_is_refused(world, packaged, tmp_path: Path) -> None:
    source = tmp_path / "given"
    shutil.copytree(packaged[0], source)
    document = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(document | {"speculators_model_type": "dspark"}))
    with pytest.raises(StageError, match="its kind is 'dspark', which no arm here serves"):
        stage(tmp_path, "package", package, world, {"name": "given"}, {"draft": [source]})


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({}, "no config.json"),
        ({"config.json": '{"speculators_config": {'}, "config.json: not valid JSON"),
        ({"config.json": "[]"}, "not a checkpoint in the speculators format"),
        ({"config.json": '{"speculators_config": {}}'}, "0 safetensors files"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_refused(world, tmp_path: Path, content, complaint) -> None:
    source = tmp_path / "given"
    source.mkdir()
    for name, text in content.items():
        (source / name).write_text(text)
    with pytest.raises(StageError, match=complaint):
        stage(tmp_path, "package", package, world, {"name": "given"}, {"draft": [source]})


def test_states_of_other_layers_are_refused_before_training(world, tmp_path: Path) -> None:
    values = {**VALUES, "algorithm": {**tiny.ALGORITHM, "aux_layers": [1, 2, 5]}}
    with pytest.raises(StageError, match=r"holds layers \[1, 2, 4, 6\], this draft needs \[1, 2, 5, 6\]"):
        stage(tmp_path, "training", training, world, values)
