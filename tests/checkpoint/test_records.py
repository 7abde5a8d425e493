from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import speculators
from speculators.checkpoint.records import CONFIGS, SpeculatorModelConfig
from speculators.errors import StageError

BLOCK = {
    "algorithm": "eagle3",
    "default_proposal_method": "greedy",
    "proposal_methods": [
        {"accept_tolerance": 0.0, "proposal_type": "greedy", "speculative_tokens": 3, "verifier_accept_k": 1}
    ],
    "verifier": {"architectures": ["Qwen3ForCausalLM"], "name_or_path": "Qwen/Qwen3-8B"},
}

#: What each algorithm adds to the common keys, with values that are nobody's default.
OWN: dict[str, dict[str, Any]] = {
    "eagle3": {
        "draft_vocab_size": 320, "norm_before_residual": False, "target_hidden_size": None,
        "eagle_aux_hidden_state_layer_ids": [2, 18, 33], "norm_before_fc": True, "fc_norm": False,
        "norm_output": True, "embed_requires_grad": True,
    },
    "peagle": {"mask_token_id": 9, "norm_before_residual": True, "eagle_aux_hidden_state_layer_ids": [1]},
    "eagle": {"transformer_layer_architecture": "X", "layernorms": True, "fusion_bias": True},
    "mtp": {"num_nextn_predict_layers": 2},
    "dflash": {
        "draft_vocab_size": 5, "block_size": 16, "target_hidden_size": 8,
        "aux_hidden_state_layer_ids": [1, 2],
        "mask_token_id": 7, "sliding_window_non_causal": False, "sample_from_anchor": True,
    },
    "dspark": {
        "markov_rank": 3, "markov_head_type": "rnn", "enable_confidence_head": False,
        "confidence_head_with_markov": False,
    },
    "dflash2": {"conv_kernel_size": 3, "conv_group_size": 4, "selector_rank": 5, "selector_top_k": 6},
    "xpress": {"xpress_rank": 1, "xpress_mlp_ratio": 3, "num_jacobi_passes": 2},
}  # fmt: skip


def document(kind: str, **changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["SomethingElse"],
        "speculators_model_type": kind,
        "speculators_version": "0.5.0",
        "speculators_config": copy.deepcopy(BLOCK),
        "transformer_layer_config": {"model_type": "llama", "hidden_size": 16},
        "dtype": "bfloat16",
        "tie_word_embeddings": False,
        "transformers_version": "5.19.0",
        **OWN[kind],
        **changes,
    }


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_is_read_by_its_algorithm_and_written_back_as_it_was(kind: str) -> None:
    given_document = document(kind)
    config = SpeculatorModelConfig.read(given_document)
    assert type(config) is CONFIGS[kind]
    assert config.to_document() == given_document
    for name, value in OWN[kind].items():
        assert getattr(config, name) == (tuple(value) if isinstance(value, list) else value)
    assert (config.speculative_tokens, config.extra) == (3, {"transformers_version": "5.19.0"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=3,
)


@settings(max_examples=40)
@given(st.sampled_from(sorted(CONFIGS)), st.dictionaries(st.text(min_size=1), JSON), st.data())
def test_unknown_keys_are_kept_and_open_ones_stay_open(kind: str, extra: dict, data: st.DataObject) -> None:
    whole = document(kind)
    extra = {key: value for key, value in extra.items() if key not in whole and key not in extra_fields(kind)}
    left_out = data.draw(st.sets(st.sampled_from(sorted(OWN[kind]))))
    given_document = {key: value for key, value in (extra | whole).items() if key not in left_out}
    given_document["speculators_config"]["verifier"] |= {"revision": "main", "digest": "ab"}
    config = SpeculatorModelConfig.read(given_document)
    assert config.to_document() == given_document
    assert left_out <= config.unsaid


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_null_where_a_value_must_stand_says_nothing_and_stays(kind: str) -> None:
    never = ("speculators_config", "transformer_layer_config", "speculators_model_type")
    whole = document(kind)
    nulls = [name for name in whole if name not in (*never, "transformers_version")]
    given_document = whole | dict.fromkeys(nulls)
    given_document["speculators_config"] |= {"algorithm": None, "proposal_methods": None}
    given_document["speculators_config"]["verifier"] = {"name_or_path": None, "architectures": None}
    config = SpeculatorModelConfig.read(given_document)
    assert config.to_document() == given_document
    assert {"tie_word_embeddings", "speculators_version", "architectures"} <= config.unsaid
    assert (config.tie_word_embeddings, config.speculative_tokens) == (False, None)
    written = config.explicit().to_document()
    assert written["tie_word_embeddings"] is False
    assert written["architectures"] == [CONFIGS[kind].architecture]


def test_a_null_flag_shows_what_vllm_takes() -> None:
    config = SpeculatorModelConfig.read(document("eagle3", norm_before_residual=None))
    assert config.norm_before_residual is False
    assert config.to_document()["norm_before_residual"] is None
    assert config.explicit().to_document()["norm_before_residual"] is False
    left_open = {key: value for key, value in document("eagle3").items() if key != "norm_before_residual"}
    assert SpeculatorModelConfig.read(left_open).explicit().to_document()["norm_before_residual"] is True
    causal = SpeculatorModelConfig.read(document("dflash", sliding_window_non_causal=None)).explicit()
    assert causal.to_document()["sliding_window_non_causal"] is False


def test_no_classes_stay_none() -> None:
    config = SpeculatorModelConfig.read(document("eagle3", architectures=[]))
    assert config.to_document()["architectures"] == []
    assert config.architectures == ()


def test_a_required_block_that_is_null_is_missing() -> None:
    with pytest.raises(StageError, match="has no transformer_layer_config"):
        SpeculatorModelConfig.read(document("eagle3", transformer_layer_config=None))


def test_methods_of_other_types_stay_as_they_are() -> None:
    given_document = document("eagle3")
    tree = {"proposal_type": "tree", "speculative_tokens": [4, 2, 1], "accept_tolerance": "none"}
    given_document["speculators_config"]["proposal_methods"].append(tree)
    config = SpeculatorModelConfig.read(given_document)
    assert config.to_document() == given_document
    assert config.speculative_tokens == 3
    assert config.speculators_config.proposal_methods[1] == tree
    given_document["speculators_config"]["proposal_methods"] = [
        tree,
        {"proposal_type": "x", "speculative_tokens": 7},
    ]
    assert SpeculatorModelConfig.read(given_document).speculative_tokens is None
    given_document["speculators_config"]["proposal_methods"].reverse()
    assert SpeculatorModelConfig.read(given_document).speculative_tokens == 7
    given_document["speculators_config"]["proposal_methods"] = [{"speculative_tokens": [4, 2, 1]}]
    with pytest.raises(StageError, match=r"speculative_tokens is \[4, 2, 1\], not int"):
        SpeculatorModelConfig.read(given_document)


def extra_fields(kind: str) -> set[str]:
    return set(CONFIGS[kind].__dataclass_fields__)


def test_an_open_flag_shows_what_vllm_takes_and_is_written_on_demand_only() -> None:
    for kind, taken in (("eagle3", True), ("peagle", False)):
        open_document = document(kind)
        open_document.pop("norm_before_residual", None)
        config = SpeculatorModelConfig.read(open_document)
        assert config.norm_before_residual is taken
        assert "norm_before_residual" not in config.to_document()
        assert config.explicit().to_document()["norm_before_residual"] is taken


def test_a_config_made_in_code_leaves_nothing_open() -> None:
    made = speculators.Eagle3SpeculatorConfig(
        speculators_config=speculators.SpeculatorsConfig(
            algorithm="eagle3",
            proposal_methods=(speculators.GreedyTokenProposalConfig(speculative_tokens=3),),
            verifier=speculators.VerifierConfig(name_or_path="a/b", architectures=("LlamaForCausalLM",)),
        ),
        transformer_layer_config={"model_type": "llama"},
        eagle_aux_hidden_state_layer_ids=(2, 16, 29),
    )
    written = made.to_document()
    assert written["speculators_model_type"] == "eagle3"
    assert written["architectures"] == ["Eagle3DraftModel"]
    assert written["eagle_aux_hidden_state_layer_ids"] == [2, 16, 29]
    assert {"norm_before_residual", "norm_before_fc", "fc_norm", "norm_output"} <= written.keys()
    assert SpeculatorModelConfig.read(written).to_document() == written


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"norm_output": "yes"}, "norm_output is 'yes', not bool"),
        ({"draft_vocab_size": True}, "draft_vocab_size is True, not int"),
        ({"eagle_aux_hidden_state_layer_ids": 3}, "not a list"),
        ({"eagle_aux_hidden_state_layer_ids": [1, "2"]}, r"ids\[1\] is '2', not int"),
        ({"transformer_layer_config": 7}, "not an object"),
        ({"speculators_config": []}, "is list, not an object"),
        ({"speculators_model_type": "eagle4"}, "is 'eagle4'; known: dflash, dflash2, dspark, eagle, eagle3"),
    ],
)
def test_a_value_of_another_type_is_named(change: dict, complaint: str) -> None:
    with pytest.raises(StageError, match=complaint):
        SpeculatorModelConfig.read(document("eagle3", **change))


def test_a_plain_model_config_is_not_taken_for_a_checkpoint() -> None:
    with pytest.raises(StageError, match="not a checkpoint in this format"):
        SpeculatorModelConfig.read({"model_type": "llama"})


def test_the_library_names_cost_nothing_until_they_are_used() -> None:
    program = (
        "import sys, speculators; light = 'speculators.checkpoint' not in sys.modules;"
        "speculators.Eagle3SpeculatorConfig; speculators.SpeculatorModel;"
        "print(light, 'torch' in sys.modules, set(speculators.__all__) <= set(dir(speculators)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True False True"
