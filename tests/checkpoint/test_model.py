from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import speculators
from speculators.checkpoint.config import VerifierName, to_document
from speculators.checkpoint.package import assemble, write_checkpoint
from speculators.errors import RecipeError, StageError
from tests.models import tiny

NAME = VerifierName("local:tiny", "0" * 64, "LlamaForCausalLM")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "draft"
    draft_ids = torch.arange(tiny.CONFIG.draft_vocab_size) * 2 + 3
    state = tiny.draft(dtype=torch.float32).state_dict()
    tensors = assemble(state, draft_ids, tiny.weights(dtype=torch.bfloat16))
    write_checkpoint(folder, {**to_document(tiny.CONFIG, 3, NAME), "somebody": ["else's", 1]}, tensors)
    return folder


def test_what_is_read_is_written_again_to_the_byte(checkpoint: Path, tmp_path: Path) -> None:
    model = speculators.SpeculatorModel.from_pretrained(checkpoint)
    assert isinstance(model.config, speculators.Eagle3SpeculatorConfig)
    assert model.config.extra == {"somebody": ["else's", 1]}
    saved = model.save_pretrained(tmp_path / "again")
    assert (saved / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    assert json.loads((saved / "config.json").read_text()) == json.loads(
        (checkpoint / "config.json").read_text()
    )
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]


def test_the_state_and_the_draft_are_the_stored_ones(checkpoint: Path) -> None:
    model = speculators.SpeculatorModel.from_pretrained(str(checkpoint))
    stored = load_file(checkpoint / "model.safetensors")
    state = model.state_dict()
    assert state.keys() == stored.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in stored.items())
    assert torch.equal(model.draft().draft.fc.weight, stored["fc.weight"])


def test_a_changed_model_is_saved_with_its_changes(checkpoint: Path, tmp_path: Path) -> None:
    model = speculators.SpeculatorModel.from_pretrained(checkpoint)
    model.tensors["fc.weight"] = torch.zeros(16, 48)
    again = speculators.SpeculatorModel.from_pretrained(model.save_pretrained(tmp_path / "changed"))
    assert not again.state_dict()["fc.weight"].any()


def test_nothing_is_overwritten_and_nothing_left_half(checkpoint: Path, tmp_path: Path) -> None:
    model = speculators.SpeculatorModel.from_pretrained(checkpoint)
    with pytest.raises(RecipeError, match="not an empty folder"):
        model.save_pretrained(checkpoint)
    model.tensors["gone"] = next(iter(model.tensors.values()))._replace(path=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        model.save_pretrained(tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["draft"]


def test_a_name_that_is_neither_folder_nor_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such checkpoint folder"):
        speculators.SpeculatorModel.from_pretrained(tmp_path / "absent")


def test_a_weight_file_that_is_a_pipe_is_not_waited_for(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    os.mkfifo(checkpoint / "model.safetensors")
    with pytest.raises(StageError, match="safetensors files"):
        speculators.SpeculatorModel.from_pretrained(checkpoint)


def test_a_repository_is_read_from_the_local_hub_cache(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789" * 4
    repository = tmp_path / "hub" / "models--somebody--draft"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    checkpoint.rename(repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = speculators.SpeculatorModel.from_pretrained("somebody/draft", cache_dir=tmp_path / "hub")
    assert model.config.speculative_tokens == 3
