"""Checkpoints go to the reference system and come back: tensor for tensor, field for field."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import speculators
from speculators.checkpoint.check import failures
from speculators.checkpoint.config import VerifierName, localised, to_document
from speculators.checkpoint.package import assemble, write_checkpoint
from speculators.checkpoint.records import CONFIGS
from speculators.checkpoint.validate import validate
from speculators.checkpoint.vocabulary import select_draft_ids
from speculators.training.architectures import ARCHITECTURES, FORMATS
from tests.models import tiny
from tests.reference.environment import Side
from tests.reference.inside.exchange import digest

pytestmark = pytest.mark.integration

NAME = VerifierName("local:tiny", "0" * 64, "LlamaForCausalLM")
#: Kinds that both this project and the reference train.
BOTH = ("eagle3", "peagle", "dflash")
IDS = select_draft_ids(torch.arange(50) % 7, 20).tolist()
#: Of a config: what each writer says of itself, and what has a meaning in its own process only.
OF_THE_WRITER = {"speculators_version", "transformers_version", "architectures", "auto_map", "dtype"}

LAYER = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "hidden_act": "silu", "rms_norm_eps": 1e-5, "vocab_size": 50,
    "max_position_embeddings": 128, "attention_bias": False, "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
}  # fmt: skip
DFLASH = {
    "draft_vocab_size": 20, "block_size": 4, "aux_hidden_state_layer_ids": [1, 2, 4], "mask_token_id": 7,
    "sliding_window_non_causal": True,
}  # fmt: skip
WHOLE = {**DFLASH, "draft_vocab_size": 50}
#: What the reference makes drafts of, values that are nobody's default included.
CONFIGURED: dict[str, dict[str, Any]] = {
    "eagle3": {
        "draft_vocab_size": 20, "eagle_aux_hidden_state_layer_ids": [1, 2, 4], "norm_before_residual": True,
        "norm_before_fc": False, "fc_norm": True, "norm_output": True,
    },
    "peagle": {
        "draft_vocab_size": 20, "eagle_aux_hidden_state_layer_ids": [1, 2, 4], "mask_token_id": 7,
        "norm_before_residual": True,
    },
    "dflash": DFLASH,
    "dspark": {**DFLASH, "markov_rank": 4, "sample_from_anchor": True},
    "dflash2": {**WHOLE, "conv_group_size": 8, "selector_rank": 4, "selector_top_k": 5},
    "xpress": {**DFLASH, "xpress_rank": 4, "num_jacobi_passes": 2},
    "mtp": {"num_nextn_predict_layers": 1},
}  # fmt: skip


def layer_of(kind: str) -> dict[str, Any]:
    llama = kind in ("eagle3", "peagle")
    return {**LAYER, "model_type": "llama" if llama else "qwen3", "layer_types": ["full_attention"] * 2}


def configured(kind: str, folder: Path, verifier: Path) -> Path:
    """A folder with the ``config.json`` of a draft that does not exist yet."""
    block = {
        "algorithm": kind, "default_proposal_method": "greedy",
        "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 3}],
        "verifier": {"name_or_path": str(verifier), "architectures": ["LlamaForCausalLM"]},
    }  # fmt: skip
    config = CONFIGS[kind].from_document(
        {
            "speculators_model_type": kind, "speculators_config": block,
            "transformer_layer_config": layer_of(kind), **CONFIGURED[kind],
        }
    )  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_document()))
    return folder


def ours(kind: str, folder: Path, verifier: Path) -> dict[str, Any]:
    """A checkpoint as the package stage writes it; returns its config."""
    known = ARCHITECTURES[kind].format
    config = known.config.for_verifier(tiny.FACTS, tiny.ALGORITHMS[kind])
    torch.manual_seed(3)
    state = ARCHITECTURES[kind].load().model(config).state_dict()
    document = localised(to_document(config, 3, NAME), verifier)
    ids = torch.tensor(IDS)
    write_checkpoint(folder, document, assemble(state, ids, tiny.weights(dtype=torch.bfloat16), known.copies))
    return document


def differences(written: Any, read: Any, place: str = "") -> list[str]:
    """Where ``read`` does not say what ``written`` said; what it says besides is a writer's default."""
    if isinstance(written, dict) and isinstance(read, dict):
        found = [differences(value, read.get(key), f"{place}.{key}") for key, value in written.items()]
    elif isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        found = [differences(*both, f"{place}[{index}]") for index, both in enumerate(zip(written, read))]
    else:
        return [] if written == read else [f"{place}: {written!r} became {read!r}"]
    return [one for few in found for one in few]


def in_memory(folder: Path) -> dict[str, str]:
    return {name: digest(tensor) for name, tensor in load_file(folder / "model.safetensors").items()}


@pytest.fixture
def verifier(tmp_path: Path) -> Path:
    return tiny.write_verifier(tmp_path / "verifier")


def check_fields(written: dict[str, Any], read: dict[str, Any]) -> None:
    """Every field that was written is read as the same value, but for ``OF_THE_WRITER``.

    The reference drops keys that its record of a verifier lacks.
    """
    before = copy.deepcopy({key: value for key, value in written.items() if key not in OF_THE_WRITER})
    named = before["speculators_config"]["verifier"]
    before["speculators_config"]["verifier"] = {key: named[key] for key in ("name_or_path", "architectures")}
    assert differences(before, read) == []


@pytest.mark.parametrize("kind", BOTH)
def test_the_reference_takes_every_tensor_and_field_of_ours(
    kind: str, reference: Side, verifier: Path, tmp_path: Path
) -> None:
    document = ours(kind, tmp_path / "ours", verifier)
    answer = reference.ask("taken", folder=str(tmp_path / "ours"), out=str(tmp_path / "theirs"))
    check_fields(document, answer["config"])
    stored = in_memory(tmp_path / "ours")
    assert {name: answer["tensors"].get(name) for name in stored} == stored
    back = speculators.SpeculatorModel.from_pretrained(tmp_path / "theirs")
    assert {name: digest(back.state_dict()[name]) for name in stored} == stored
    check_fields(document, back.config.to_document())


@pytest.mark.parametrize("kind", CONFIGURED)
def test_we_keep_every_tensor_and_field_of_the_references(
    kind: str, reference: Side, verifier: Path, tmp_path: Path
) -> None:
    config = configured(kind, tmp_path / "config", verifier)
    reduced = CONFIGURED[kind].get("draft_vocab_size") == len(IDS)
    ids = IDS if reduced else None
    reference.ask("made", config=str(config), out=str(tmp_path / "theirs"), draft_ids=ids)
    read = speculators.SpeculatorModel.from_pretrained(tmp_path / "theirs")
    check_fields(json.loads((config / "config.json").read_text()), read.config.to_document())
    read.save_pretrained(tmp_path / "ours")
    theirs, again = tmp_path / "theirs" / "config.json", tmp_path / "ours" / "config.json"
    assert json.loads(theirs.read_text()) == json.loads(again.read_text())
    written, copied = (load_file(tmp_path / one / "model.safetensors") for one in ("theirs", "ours"))
    assert written.keys() == copied.keys()
    assert all(
        copied[name].dtype == one.dtype and torch.equal(copied[name], one) for name, one in written.items()
    )
    answer = reference.ask("taken", folder=str(tmp_path / "ours"), out=str(tmp_path / "again"))
    stored = in_memory(tmp_path / "ours")
    stored.pop("verifier_lm_head.weight", None)  # the reference writes it with MTP heads and does not read it
    assert {name: answer["tensors"].get(name) for name in stored} == stored
    if kind in FORMATS:  # it writes a pointer to Python code, which the validator names
        assert [check.detail for check in failures(validate(tmp_path / "ours"))] == ["auto_map"]
