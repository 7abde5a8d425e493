from __future__ import annotations

import copy

import pytest

from speculators.checkpoint.rope import rope_differences, rope_parameters

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {"rope_type": "default", "rope_theta": 10000.0}),
        ({"rope_theta": 5e5, "rope_scaling": None}, {"rope_type": "default", "rope_theta": 5e5}),
        (
            {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **LLAMA3}},
            {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3},
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}},
            {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0},
        ),
        (
            {
                "rope_parameters": {
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                }
            },
            {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        ),
        (
            {
                "rope_theta": None,
                "rope_parameters": {"rope_type": None, "type": "linear", "factor": 2.0, "rope_theta": None},
                "partial_rotary_factor": None,
                "rotary_pct": 0.5,
            },
            {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0, "partial_rotary_factor": 0.5},
        ),
        ({"rope_theta": 0}, {"rope_type": "default", "rope_theta": 0}),
        (
            {"rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": [2.0]}},
            {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0], "long_factor": [2.0]},
        ),
        (
            {"rope_theta": 1e4, "partial_rotary_factor": 0.5},
            {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        ),
    ],
)
def test_every_spelling_becomes_one(config: dict, expected: dict) -> None:
    assert rope_parameters(config) == expected


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
ORIGINAL = "original_max_position_embeddings"


@pytest.mark.parametrize(
    "said",
    [
        {"rope_parameters": YARN, "max_position_embeddings": 64},
        {"rope_parameters": YARN, "max_position_embeddings": 64, ORIGINAL: 16},
        {"rope_parameters": {**YARN, ORIGINAL: 32}, "max_position_embeddings": 64},
        {"rope_parameters": {**YARN, ORIGINAL: 32}, "max_position_embeddings": 64, ORIGINAL: 16},
        {
            "rope_parameters": {"rope_type": "linear", "factor": 2.0},
            "max_position_embeddings": 64,
            ORIGINAL: 16,
        },
        {
            "rope_parameters": {"full_attention": YARN},
            "layer_types": ["full_attention"],
            "max_position_embeddings": 64,
            ORIGINAL: 16,
        },
    ],
)
def test_the_length_before_stretching_is_the_one_that_vllm_takes(said: dict) -> None:
    config_of = pytest.importorskip("vllm.transformers_utils.config")
    from transformers import Qwen3Config

    config = Qwen3Config(**copy.deepcopy(said), num_hidden_layers=1)
    config_of.patch_rope_parameters(config)
    theirs = config.rope_parameters.get("full_attention", config.rope_parameters)
    assert rope_parameters(said).get(ORIGINAL) == theirs.get(ORIGINAL)


def test_differences_are_named_and_what_changes_nothing_is_not() -> None:
    one = rope_parameters({"rope_theta": 1e4, "partial_rotary_factor": 1.0})
    other = rope_parameters({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}})
    assert rope_differences(one, other) == ["rope_theta: 10000.0 against 1000000.0"]
    assert rope_differences(other, {**other, "mrope_section": [1, 2, 3]}) == []
