"""A published draft trained further: it keeps what its weights were made for, or is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from speculators.checkpoint.config import VerifierName, to_document
from speculators.checkpoint.eagle3 import FORMAT, Eagle3Config
from speculators.checkpoint.package import assemble, write_checkpoint
from speculators.checkpoint.read import read_checkpoint
from speculators.documents import read_json, write_json
from speculators.errors import EXIT_INTERRUPTED
from speculators.stages import training as training_stage
from speculators.stages.__main__ import main
from speculators.stages.documents import ERROR_NAME, OUTPUT_NAME, StageInput
from speculators.training.files import DRAFT_NAME, ENDS_NAME, METRICS_NAME, VOCABULARY_NAME
from tests.models import tiny

VERIFIER = VerifierName("local:tiny", "ab" * 32, "LlamaForCausalLM")
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
#: A vocabulary that these few documents would never choose.
DRAFT_IDS = torch.arange(tiny.CONFIG.draft_vocab_size) * 2 + 1
SHAPE = tiny.config(norm_output=True, rope_scaling=YARN, rope_theta=5e5)


def publish(
    folder: Path,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 7,
    shape: Eagle3Config = SHAPE,
    **ends: torch.Tensor,
) -> Path:
    """A draft as somebody else published it, in half precision; ``ends`` replace the verifier's."""
    folder.mkdir()
    draft, weights = tiny.draft(shape, seed, dtype=torch.float32), tiny.weights(dtype=torch.bfloat16)
    weights = weights._replace(**ends)
    tensors = assemble(draft.state_dict(), DRAFT_IDS, weights, FORMAT.copies)
    halves = {name: part.to(dtype) if part.is_floating_point() else part for name, part in tensors.items()}
    write_checkpoint(folder, to_document(shape, 2, VERIFIER), halves)
    return folder


def train(
    root: Path, start: Path, stage: str = "training", learning_rate: float = 1e-9, **algorithm: Any
) -> dict[str, Any]:
    """The stage's sealed result, or its error."""
    world = tiny.write_world(root / "world")
    block = {**tiny.ALGORITHM, "norm_output": True, **algorithm}
    values = {"algorithm": block, "training": {**tiny.TRAINING, "learning_rate": learning_rate}, "name": "x"}
    inputs, files = world, {"training.init_from": [start]}
    for name in ("training", "package")[: 2 if stage == "package" else 1]:
        step = StageInput(name, values, inputs, files if name == "training" else {}, root / name)
        write_json(root / f"{name}.json", step.document())
        if main(str(root / f"{name}.json")):
            return read_json(root / name / ERROR_NAME)
        inputs = {**world, name: root / name}
    return read_json(root / stage / OUTPUT_NAME)["result"]


@pytest.fixture(scope="module")
def further(tmp_path_factory) -> tuple[Path, Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("further")
    start = publish(root / "published")
    return root, start, train(root, start, "package")


def test_it_starts_with_the_published_weights_and_vocabulary(further) -> None:
    root, start, _ = further
    published, trained = read_checkpoint(start), load_file(root / "training" / DRAFT_NAME)
    for name, tensor in published.draft.state_dict().items():  # a rate of nearly nothing moves nothing
        torch.testing.assert_close(trained[name], tensor, atol=1e-6, rtol=1e-6)
    assert torch.equal(load_file(root / "training" / VOCABULARY_NAME)["draft_ids"], DRAFT_IDS)
    result = read_json(root / "training" / OUTPUT_NAME)["result"]
    assert [row["name"] for row in result["baselines"]] == ["bigram", "as published"]
    assert len(result["started_from"]) == 64


def test_the_package_keeps_the_published_rope_and_norms(further) -> None:
    root, start, _ = further
    before, after = (read_json(folder / "config.json") for folder in (start, root / "package" / "model"))
    ours, theirs = after["transformer_layer_config"], before["transformer_layer_config"]
    assert ours["rope_parameters"] == theirs["rope_parameters"]
    assert ours["rope_parameters"]["rope_type"] == "yarn"
    assert after["norm_output"] is True
    assert read_checkpoint(root / "package" / "model").draft.config == SHAPE


def test_widths_and_norms_that_a_recipe_has_no_word_for_are_the_drafts(tmp_path: Path) -> None:
    theirs = replace(
        SHAPE,
        intermediate_size=24,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        rms_norm_eps=1e-3,
    )
    start = publish(tmp_path / "published", shape=theirs)
    train(tmp_path, start, "package")
    assert read_checkpoint(tmp_path / "package" / "model").draft.config == theirs


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm_output": False}, "norm_output False, {place} has True"),
        ({"layers": 2}, "layers 2, {place} has 1"),
        ({"draft_vocabulary": 10}, "draft_vocab_size 10, {place} has 20"),
        (
            {"kind": "peagle", "mask_token_id": 3, "norm_output": False},
            "algorithm.kind is 'peagle', {place} has",
        ),
    ],
)
def test_a_conflict_is_refused_with_both_places(tmp_path: Path, changes, words: str) -> None:
    start = publish(tmp_path / "published")
    error = train(tmp_path, start, **changes)
    assert error["rule"] == "init-from"
    assert words.format(place=start / "config.json") in error["message"]
    anew = "leave the recipe's value out to inherit the draft's, or training.init_from to start anew"
    other = "leave training.init_from out to start anew, or name a draft of the recipe's kind"
    assert error["hint"] == (other if "kind" in changes else anew)


@contextmanager
def told_at_once() -> Iterator[Callable[[], bool]]:
    yield lambda: True


def test_a_checkpoint_of_another_start_is_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world, document = tiny.write_world(tmp_path / "world"), tmp_path / "training.json"
    values = {"algorithm": {**tiny.ALGORITHM, "norm_output": True}, "training": tiny.TRAINING}

    def attempt(start: Path) -> int:
        files = {"training.init_from": [start]}
        write_json(document, StageInput("training", values, world, files, tmp_path / "out").document())
        return main(str(document))

    one, other = publish(tmp_path / "one"), publish(tmp_path / "other", seed=8)
    with monkeypatch.context() as patch:
        patch.setattr(training_stage, "deferred_interrupts", told_at_once)
        assert [attempt(one), attempt(one)] == [EXIT_INTERRUPTED] * 2
    assert "continuing from step 1 of" in capsys.readouterr().out
    assert attempt(other) == 0
    assert "was made from other options or documents" in capsys.readouterr().out


def test_an_end_of_an_earlier_attempt_is_not_kept(tmp_path: Path) -> None:
    head = torch.randn(tiny.CONFIG.vocab_size, tiny.CONFIG.hidden_size).bfloat16()
    train(tmp_path, publish(tmp_path / "with", head=head))
    assert (tmp_path / "training" / ENDS_NAME).exists()
    shutil.rmtree(tmp_path / "world")
    (tmp_path / "training" / OUTPUT_NAME).unlink()
    train(tmp_path, publish(tmp_path / "without"))
    assert not (tmp_path / "training" / ENDS_NAME).exists()


@pytest.mark.parametrize("end", ["head", "embedding"])
def test_an_end_of_the_draft_s_own_is_kept(tmp_path: Path, end: str) -> None:
    other = torch.randn(tiny.CONFIG.vocab_size, tiny.CONFIG.hidden_size).bfloat16()
    start = publish(tmp_path / "published", **{end: other})
    train(tmp_path, start, "package")
    before, after = (read_checkpoint(folder) for folder in (start, tmp_path / "package" / "model"))
    assert torch.equal(getattr(after, end), getattr(before, end))
    shared = publish(tmp_path / "shared")
    train(tmp_path / "beside", shared)
    assert first_loss(tmp_path) != pytest.approx(first_loss(tmp_path / "beside"), rel=1e-2)


def first_loss(root: Path) -> float:
    rows = (root / "training" / METRICS_NAME).read_text(encoding="utf-8").splitlines()
    loss: float = json.loads(rows[0])["loss"]
    return loss


def test_ends_that_are_shared_leave_no_copies_behind(further) -> None:
    root, _, _ = further
    assert not (root / "training" / ENDS_NAME).exists()


def test_a_draft_that_leaves_its_flags_open_is_read_as_vllm_reads_it(tmp_path: Path) -> None:
    start = publish(tmp_path / "published")
    document = read_json(start / "config.json")
    for name in ("norm_output", "norm_before_fc"):
        del document[name]
    tensors = load_file(start / "model.safetensors")
    del tensors["input_norm.weight"]
    save_file(tensors, start / "model.safetensors")
    write_json(start / "config.json", document)
    error = train(tmp_path / "refused", start)
    assert "norm_before_fc True" in error["message"]
    result = train(tmp_path / "agreed", start, norm_output=False, norm_before_fc=False)
    assert result["optimiser_steps"] > 0


def test_what_training_only_makes_worse_is_kept_as_it_was_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = publish(tmp_path / "published", seed=1)
    result = train(tmp_path, start, learning_rate=0.03)
    _, published = result["baselines"]
    assert published["name"] == "as published"
    assert result["best_epoch"] == 0
    assert result["validation"] == {name: value for name, value in published.items() if name != "name"}
    assert "no validation surpassed the published draft's" in capsys.readouterr().out
    stored, kept = load_file(start / "model.safetensors"), load_file(tmp_path / "training" / DRAFT_NAME)
    assert all(torch.equal(tensor, stored[name].float()) for name, tensor in kept.items())
