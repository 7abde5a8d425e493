from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from speculators.datagen.verifier import eos_token_ids, facts, from_folder, from_hub
from speculators.errors import MachineError, RecipeError
from tests.needs import leave_out

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 16,
    "vocab_size": 12,
    "eos_token_id": [3, 2],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "tiny-chat"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(CONFIG))
    (source / "tokenizer.json").write_text("{}")
    (source / "modeling_tiny.py").write_text("raise RuntimeError")
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    save_file({"w": torch.zeros(2)}, source / "model.safetensors")
    return source


def test_weights_come_along_and_code_and_pickles_stay_out(folder: Path, tmp_path: Path) -> None:
    source = from_folder(folder, tmp_path / "model", identity="local:tiny-chat")
    assert source.id == "local:tiny-chat"
    assert sorted(path.name for path in source.folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_a_folder_that_is_overwritten_later_changes_no_stored_verifier(folder: Path, tmp_path: Path) -> None:
    source = from_folder(folder, tmp_path / "model", identity="local:tiny-chat")
    before = (source.folder / "model.safetensors").read_bytes()
    with (folder / "model.safetensors").open("r+b") as weights:
        weights.write(b"trained on")
    assert (source.folder / "model.safetensors").read_bytes() == before


def test_code_comes_along_only_when_trusted(folder: Path, tmp_path: Path) -> None:
    from_folder(folder, tmp_path / "model", identity="local:x", trust_remote_code=True)
    assert (tmp_path / "model" / "modeling_tiny.py").is_file()


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(RecipeError, match=r"lacks \*\.safetensors, a tokenizer"):
        from_folder(folder, tmp_path / "model", identity="local:x")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such folder"):
        from_folder(tmp_path / "none", tmp_path / "model", identity="local:none")


def test_a_repository_outside_the_cache_says_how_to_fetch_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MachineError, match="not in the local hub cache") as caught:
        from_hub("someone/none-such", "0" * 40, tmp_path / "model")
    assert caught.value.hint.endswith(f"hf download someone/none-such --revision {'0' * 40}")


COMMIT = "a" * 40


def cached(folder: Path, cache: Path) -> Path:
    """``folder`` as the hub's client would have fetched it: a snapshot of links to blobs; their folder."""
    repository = cache / "models--someone--tiny"
    snapshot, blobs = repository / "snapshots" / COMMIT, repository / "blobs"
    for made in (repository / "refs", snapshot, blobs):
        made.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for path in folder.iterdir():
        shutil.copyfile(path, blobs / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    return blobs


def test_a_cached_repository_is_named_by_its_commit_and_its_weights_are_linked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = cached(folder, tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    source = from_hub("someone/tiny", "main", tmp_path / "model")
    assert source.id == f"someone/tiny@{COMMIT}"
    assert (source.folder / "model.safetensors").samefile(blobs / "model.safetensors")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder to which nothing below ``tmp_path`` can have a hard link."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        leave_out("there is no second file system to write to")
    with tempfile.TemporaryDirectory(dir=memory) as found:
        yield Path(found)


def test_a_verifier_from_a_cache_on_another_file_system_does_not_depend_on_it(
    folder: Path, tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    cached(folder, elsewhere / "hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(elsewhere / "hub"))
    source = from_hub("someone/tiny", "main", tmp_path / "model")
    shutil.rmtree(elsewhere / "hub")  # a stage that does not mount the cache sees as much of it
    assert not any(path.is_symlink() for path in source.folder.iterdir())
    assert (source.folder / "model.safetensors").read_bytes() == weights


def test_facts_fill_in_what_the_config_leaves_out(folder: Path) -> None:
    known = facts(folder)
    assert known["architecture"] == "LlamaForCausalLM"
    assert (known["head_dim"], known["hidden_size"], known["num_hidden_layers"]) == (4, 8, 2)
    assert json.loads(json.dumps(known)) == known


def test_every_configured_end_of_turn_counts(folder: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"a": 0, "<end>": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": 5}')
    assert eos_token_ids(folder) == [1, 2, 3, 5]
