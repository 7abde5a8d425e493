from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from speculators.checkpoint.verifier_weights import load_verifier_weights
from speculators.errors import StageError
from tests.models import tiny


def edit(folder: Path, **changes: object) -> None:
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**document, **changes}))


def test_a_tied_head_is_the_embedding_itself(tmp_path: Path) -> None:
    loaded = load_verifier_weights(tiny.write_verifier(tmp_path / "v", tied=True))
    assert loaded.head is loaded.embedding
    assert loaded.embedding.dtype == torch.bfloat16
    assert loaded.norm_eps == tiny.CONFIG.rms_norm_eps


def test_an_untied_head_is_its_own_tensor(tmp_path: Path) -> None:
    loaded = load_verifier_weights(tiny.write_verifier(tmp_path / "v"))
    assert torch.equal(loaded.head, tiny.weights(dtype=torch.bfloat16).head)


def test_an_indexed_folder_is_read_through_its_index(tmp_path: Path) -> None:
    folder = tiny.write_verifier(tmp_path / "v")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {}
    for number, (name, tensor) in enumerate(tensors.items()):
        names[name] = f"model-{number:05d}.safetensors"
        save_file({name: tensor}, folder / names[name])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert torch.equal(load_verifier_weights(folder).head, tensors["lm_head.weight"])


def test_a_missing_head_is_named_and_never_replaced_by_the_embedding(tmp_path: Path) -> None:
    folder = tiny.write_verifier(tmp_path / "v", tied=True)
    edit(folder, tie_word_embeddings=False)
    with pytest.raises(StageError, match=r"no tensor lm_head\.weight"):
        load_verifier_weights(folder)


def test_a_tensor_whose_name_merely_ends_alike_does_not_count(tmp_path: Path) -> None:
    folder = tiny.write_verifier(tmp_path / "v")
    tensors = load_file(folder / "model.safetensors")
    tensors["vision.model.norm.weight"] = tensors.pop("model.norm.weight")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(StageError, match=r"no tensor model\.norm\.weight"):
        load_verifier_weights(folder)


@pytest.mark.parametrize(
    ("said", "scale"),
    [
        ({"dim_model_base": 4}, 0.25),  # MiniCPM, of 16 features
        ({"lm_head_multiplier": 0.5}, 0.5),
        ({"use_mup": True, "output_mult": 2.0, "mup_scale_factor": 8.0}, 0.25),
        ({"use_mup": False, "output_mult": 2.0, "mup_scale_factor": 8.0}, 1.0),
    ],
)
def test_logits_are_scaled_as_vllms_class_of_the_family_does(
    tmp_path: Path, said: dict, scale: float
) -> None:
    folder = tiny.write_verifier(tmp_path / "v")
    edit(folder, **said)
    assert load_verifier_weights(folder).logit_scale == scale


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "deepseek_v4"}, "residual streams"),
        ({"rms_norm_eps": None}, "no rms_norm_eps"),
    ],
)
def test_a_verifier_whose_logits_are_not_head_of_norm_is_refused(tmp_path: Path, change, reason) -> None:
    folder = tiny.write_verifier(tmp_path / "v")
    edit(folder, **change)
    with pytest.raises(StageError, match=reason):
        load_verifier_weights(folder)


@pytest.mark.parametrize(
    "change",
    [{"rms_norm_eps": "x"}, {"rms_norm_eps": float("nan")}, {"logits_scaling": [1]},
     {"final_logit_softcapping": "high"}, {"dim_model_base": 8, "hidden_size": 0}],
)  # fmt: skip
def test_a_value_that_is_no_number_is_refused_by_its_name(tmp_path: Path, change: dict[str, object]) -> None:
    folder = tiny.write_verifier(tmp_path / "v")
    edit(folder, **change)
    with pytest.raises(StageError, match=f"v: config.json: .*({next(iter(change))}|division by zero)"):
        load_verifier_weights(folder)


def test_a_damaged_file_of_several_is_refused_by_its_name(tmp_path: Path) -> None:
    folder = tiny.write_verifier(tmp_path / "v")
    names = load_file(folder / "model.safetensors").keys()
    shard = (folder / "model.safetensors").rename(folder / "one.safetensors")
    shard.write_bytes(shard.read_bytes()[:-8])
    index = {"weight_map": dict.fromkeys(names, "one.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(StageError, match=r"one\.safetensors: .*truncated"):
        load_verifier_weights(folder)


def test_a_head_with_a_bias_is_refused(tmp_path: Path) -> None:
    folder = tiny.write_verifier(tmp_path / "v")
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "lm_head.bias": torch.zeros(50)}, folder / "model.safetensors")
    with pytest.raises(StageError, match="lm_head has a bias"):
        load_verifier_weights(folder)


def test_an_unsaid_tie_is_told_by_the_missing_head(tmp_path: Path) -> None:
    for tied in (True, False):
        folder = tiny.write_verifier(tmp_path / str(tied), tied=tied)
        document = json.loads((folder / "config.json").read_text())
        del document["tie_word_embeddings"]
        (folder / "config.json").write_text(json.dumps(document))
        loaded = load_verifier_weights(folder)
        assert (loaded.head is loaded.embedding) == tied


def test_a_language_model_is_found_where_it_is_nested(tmp_path: Path) -> None:
    folder = tiny.write_verifier(tmp_path / "v")
    tensors = load_file(folder / "model.safetensors")
    named = {f"language_model.{name}": tensor for name, tensor in tensors.items()}
    save_file({**named, "vision_tower.norm.weight": torch.ones(4)}, folder / "model.safetensors")
    text = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "mistral3", "text_config": text}))
    assert torch.equal(load_verifier_weights(folder).head, tensors["lm_head.weight"])


@pytest.mark.parametrize("stored_as", [torch.int8, torch.uint32])
def test_an_integer_head_without_a_scale_is_refused(tmp_path: Path, stored_as: torch.dtype) -> None:
    folder = tiny.write_verifier(tmp_path / "v")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"].to(stored_as)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(
        StageError, match=r"lm_head\.weight is stored in a way that is not known: weight torch"
    ):
        load_verifier_weights(folder)


@pytest.mark.parametrize("file", ["../outside.safetensors", "/etc/passwd", "absent.safetensors"])
def test_an_index_that_leads_out_of_the_folder_is_refused(tmp_path: Path, file: str) -> None:
    folder = tiny.write_verifier(tmp_path / "v")
    (tmp_path / "outside.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": file}}))
    with pytest.raises(StageError, match="no file of this folder"):
        load_verifier_weights(folder)


def test_a_folder_without_weights_says_what_it_looked_for(tmp_path: Path) -> None:
    folder = tiny.write_verifier(tmp_path / "v")
    (folder / "model.safetensors").unlink()
    with pytest.raises(StageError, match=r"neither model\.safetensors\.index\.json nor model.safetensors"):
        load_verifier_weights(folder)
