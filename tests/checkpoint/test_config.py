from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

import speculators
from speculators.checkpoint.config import (
    VerifierName,
    completed,
    from_document,
    localised,
    stored_format,
    to_document,
)
from speculators.errors import StageError
from speculators.training.architectures import ARCHITECTURES
from tests.models import tiny
from tests.needs import needed

LOCAL = VerifierName("local:tiny", "ab" * 32, "LlamaForCausalLM")
HUB = VerifierName("Qwen/Qwen3-8B@" + "0123456789" * 4, "cd" * 32, "Qwen3ForCausalLM")


@pytest.mark.parametrize("changes", [{}, {"layers": 2, "norm_output": True}, {"aux_layers": (1, 3, 4, 5)}])
def test_a_written_config_reads_back_as_the_same_shape(changes) -> None:
    config = tiny.config(**changes)
    assert from_document(to_document(config, 3, LOCAL)) == config


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_config_of_every_kind_reads_back_as_the_same_shape(kind) -> None:
    known = ARCHITECTURES[kind].format
    config = known.config.for_verifier(tiny.FACTS, tiny.ALGORITHMS[kind])
    document = to_document(config, 3, LOCAL)
    assert from_document(document) == config
    assert stored_format(document) is known
    assert all(isinstance(document[flag], bool) for flag in known.flags)


def test_a_causal_dflash_is_not_taken_for_one_that_we_compute() -> None:
    document = to_document(
        ARCHITECTURES["dflash"].format.config.for_verifier(tiny.FACTS, tiny.ALGORITHMS["dflash"]), 3, LOCAL
    )
    with pytest.raises(StageError, match="sliding_window_non_causal false"):
        from_document({**document, "sliding_window_non_causal": False})
    full, notes = completed({**document, "aux_hidden_state_layer_ids": None}, 32)
    assert (full["aux_hidden_state_layer_ids"], notes) == (None, [])  # vLLM has no default for these


def test_nothing_is_left_to_a_default() -> None:
    document = to_document(tiny.config(aux_layers=(1, 4)), 5, LOCAL)
    assert "model_type" not in document
    assert "auto_map" not in document
    flags = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output")
    assert [document[flag] for flag in flags] == [False, True, False, False]
    assert document["speculators_version"] == speculators.__version__
    assert document["transformer_layer_config"]["num_aux_hidden_states"] == 2
    assert document["transformer_layer_config"]["vocab_size"] == tiny.CONFIG.vocab_size
    assert document["speculators_config"]["proposal_methods"][0]["speculative_tokens"] == 5


def test_the_stored_verifier_is_canonical_and_the_local_one_a_path(tmp_path: Path) -> None:
    document = to_document(tiny.CONFIG, 3, HUB)
    before = copy.deepcopy(document)
    stored = document["speculators_config"]["verifier"]
    assert (stored["name_or_path"], stored["id"], stored["digest"]) == ("Qwen/Qwen3-8B", HUB.id, HUB.digest)
    local = localised(document, tmp_path)["speculators_config"]["verifier"]
    assert (local["name_or_path"], local["id"], local["digest"]) == (
        str(tmp_path.resolve()),
        HUB.id,
        HUB.digest,
    )
    assert document == before


def test_open_flags_of_a_ready_made_config_become_what_vllm_takes_them_to_be() -> None:
    document = to_document(tiny.CONFIG, 3, LOCAL)
    for flag in ("norm_before_residual", "fc_norm"):
        del document[flag]
    document["auto_map"] = {"": "config.Eagle3SpeculatorConfig"}
    full, notes = completed(document, 32)
    assert (full["norm_before_residual"], full["fc_norm"]) == (True, False)
    assert "auto_map" not in full
    assert len(notes) == 3
    assert completed(full, 32) == (full, [])


def test_layers_and_vocabulary_that_are_null_become_what_vllm_takes_them_to_be() -> None:
    document = to_document(tiny.CONFIG, 3, LOCAL)
    document |= {"eagle_aux_hidden_state_layer_ids": None, "draft_vocab_size": None}
    full, notes = completed(document, 32)
    assert full["eagle_aux_hidden_state_layer_ids"] == [2, 16, 29]
    assert full["draft_vocab_size"] == tiny.CONFIG.vocab_size
    assert len(notes) == 2


@pytest.mark.parametrize(
    ("change", "feature"),
    [
        ({"model_type": "qwen3"}, "qwen3"),
        ({"attention_bias": True}, "bias"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 5e5, "factor": 2.0}}, "dynamic"),
        ({"rope_parameters": {"rope_theta": 5e5, "partial_rotary_factor": 0.5}}, "some features"),
        ({"rope_parameters": {"rope_theta": 5e5}, "partial_rotary_factor": 0.5}, "some features"),
        ({"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}, "some layers"),
    ],
)
def test_a_draft_that_our_model_does_not_compute_is_refused_not_approximated(change, feature) -> None:
    document = to_document(tiny.CONFIG, 3, LOCAL)
    document["transformer_layer_config"].update(change)
    with pytest.raises(StageError, match=feature):
        from_document(document)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        {"sliding_window": 8, "layers": 2},
    ],
)
def test_what_is_written_is_read_back(changes) -> None:
    config = tiny.config(**changes)
    assert from_document(to_document(config, 3, LOCAL)) == config


@pytest.mark.integration
def test_vllms_own_reader_takes_every_value_as_written(tmp_path: Path) -> None:
    base = needed("vllm.transformers_utils.configs.speculators.base")
    config = tiny.config(aux_layers=(1, 2, 4, 5), norm_before_residual=False, norm_output=True)
    document = localised(to_document(config, 4, HUB), tmp_path)
    reader = base.SpeculatorsConfig
    assert reader.extract_vllm_speculative_config(document) == {
        "method": "eagle3",
        "num_speculative_tokens": 4,
    }
    read = reader(**reader.extract_transformers_pre_trained_config(copy.deepcopy(document)))
    assert read.architectures == ["Eagle3LlamaForCausalLM"]
    assert (read.norm_before_residual, read.norm_before_fc, read.fc_norm, read.norm_output) == (
        False, True, False, True,
    )  # fmt: skip
    assert read.num_aux_hidden_states == 4
    assert read.eagle_aux_hidden_state_layer_ids == [1, 2, 4, 5]
    assert read.rope_parameters["rope_theta"] == config.rope_theta
    assert (read.draft_vocab_size, read.vocab_size) == (20, 50)
    assert (read.head_dim, read.num_key_value_heads, read.hidden_act) == (8, 2, "silu")


SERVED = {
    "peagle": ({"method": "eagle3", "parallel_drafting": True}, "PeagleLlamaForCausalLM"),
    "dflash": ({"method": "dflash"}, "DFlashDraftModel"),
}


@pytest.mark.integration
@pytest.mark.parametrize("kind", SERVED)
def test_vllms_own_reader_knows_the_other_kinds(kind: str, tmp_path: Path) -> None:
    base = pytest.importorskip("vllm.transformers_utils.configs.speculators.base")
    known, (serve, architecture) = ARCHITECTURES[kind].format, SERVED[kind]
    config = known.config.for_verifier(tiny.FACTS, tiny.ALGORITHMS[kind])
    document = localised(to_document(config, 3, HUB), tmp_path)
    reader = base.SpeculatorsConfig
    assert known.serve == serve
    stored = {"method": kind} if kind == "dflash" else serve
    assert reader.extract_vllm_speculative_config(document) == {**stored, "num_speculative_tokens": 3}
    read = reader(**reader.extract_transformers_pre_trained_config(copy.deepcopy(document)))
    assert read.architectures == [architecture]
    assert read.eagle_aux_hidden_state_layer_ids == [1, 2, 4]
    mask = read.pard_token if kind == "peagle" else read.dflash_config["mask_token_id"]
    assert mask == 7
    if kind == "dflash":
        assert read.dflash_config["target_layer_ids"] == [0, 1, 3]
        assert (read.dflash_config["causal"], read.dflash_config["sample_from_anchor"]) == (False, False)


@pytest.mark.integration
def test_vllm_finds_method_and_verifier_of_an_eagle_folder_beside_its_plain_llama_config(
    tmp_path: Path,
) -> None:
    readers = pytest.importorskip("vllm.transformers_utils.config")
    known = ARCHITECTURES["eagle"].format
    config = known.config.for_verifier(tiny.FACTS, tiny.ALGORITHMS["eagle"])
    document = localised(to_document(config, 3, HUB), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(document))
    served = readers.maybe_override_with_speculators(str(tmp_path), None, trust_remote_code=False)
    speculation = {"method": "eagle", "num_speculative_tokens": 3, "model": str(tmp_path)}
    assert served == (str(tmp_path), str(tmp_path), speculation)
    plain = readers.get_config(str(tmp_path), trust_remote_code=False)
    assert (plain.model_type, plain.architectures) == ("llama", ["LlamaForCausalLM"])
    assert (plain.num_hidden_layers, plain.head_dim, plain.vocab_size) == (1, 8, 50)
