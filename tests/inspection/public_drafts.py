"""Public drafts, written out from public facts: ``inspect`` must not call any of them broken.

The config fields are those of the page that each entry names (seen November 2026).  Where only a model card
or a part of the config is public, the rest is what its writer writes, and paths of other people's machines
are shortened.  Sizes are made small (``shrunk``), the tensors are random and have the shapes that the config
calls for: so this tests what ``inspect`` says of real configs, not of real weights.

    python -m tests.inspection.public_drafts
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from speculators.checkpoint.config import compared_format, completed
from speculators.checkpoint.tensors import layer_shapes, within
from speculators.inspection.draft import Inspection, inspect_draft

HIDDEN, VOCAB, DRAFT_VOCAB = 128, 256, 48


class Public(NamedTuple):
    """``layout``: "speculators", or of ``convert.kinds``; ``verifier``: what is known of its verifier."""

    source: str
    layout: str
    config: dict[str, Any]
    verifier: dict[str, Any]
    files: tuple[str, ...] = ()  # beside config and weights
    frozen_head: bool = True  # the head is rows of the verifier's


def verifier(architecture: str, depth: int, positions: int, theta: float, **rope: Any) -> dict[str, Any]:
    parameters = {"rope_type": "default", "rope_theta": theta, **rope}
    return {"architectures": [architecture], "num_hidden_layers": depth,
            "max_position_embeddings": positions, "rope_parameters": parameters}  # fmt: skip


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip
LLAMA_31_8B = verifier("LlamaForCausalLM", 32, 131072, 500000.0, **LLAMA3)
LLAMA_2_7B = verifier("LlamaForCausalLM", 32, 4096, 10000.0)
LLAMA_2_13B = verifier("LlamaForCausalLM", 40, 4096, 10000.0)
QWEN3_8B = verifier("Qwen3ForCausalLM", 36, 40960, 1000000)
QWEN3_32B = verifier("Qwen3ForCausalLM", 64, 40960, 1000000)
QWEN3_30B_A3B = verifier("Qwen3MoeForCausalLM", 48, 40960, 1000000.0)
QWEN3_235B = verifier("Qwen3MoeForCausalLM", 94, 40960, 1000000.0)
KIMI_K2 = verifier("DeepseekV3ForCausalLM", 61, 131072, 50000.0, rope_type="yarn", factor=32.0)
DEEPSEEK_V3 = verifier("DeepseekV3ForCausalLM", 61, 163840, 10000.0, rope_type="yarn", factor=40.0)
GPT_OSS_120B = verifier("GptOssForCausalLM", 36, 131072, 150000.0, rope_type="yarn", factor=32.0)
GPT_OSS_20B = verifier("GptOssForCausalLM", 24, 131072, 150000.0, rope_type="yarn", factor=32.0)

#: Keys that most of these configs share, with the values that most of them have.
COMMON: dict[str, Any] = {
    "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02,
    "model_type": "llama", "num_hidden_layers": 1, "tie_word_embeddings": False, "use_cache": True,
}  # fmt: skip


def decoder(
    hidden: int, inner: int, heads: int, keys: int | None, vocab: int, positions: int, eps: float, **more: Any
) -> dict[str, Any]:
    """The size keys of a config; ``keys`` None: it does not say."""
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_attention_heads": heads,
             "vocab_size": vocab, "max_position_embeddings": positions, "rms_norm_eps": eps}  # fmt: skip
    return {**COMMON, **sizes, **({} if keys is None else {"num_key_value_heads": keys}), **more}


def specforge(
    layer: dict[str, Any], draft_vocab: int, ids: list[int] | None = None, **more: Any
) -> dict[str, Any]:
    """A config as SpecForge writes it."""
    said = {"eagle_aux_hidden_state_layer_ids": ids, "use_aux_hidden_state": True}
    block = {"eagle_config": said} if ids else {}
    return {
        **layer,
        "architectures": ["LlamaForCausalLMEagle3"],
        "draft_vocab_size": draft_vocab,
        **block,
        **more,
    }


def native(
    kind: str, tokens: int, named: str, architecture: str | None, layer: dict[str, Any], **own: Any
) -> dict[str, Any]:
    """A config in the speculators format."""
    return {
        "auto_map": {"": "config.SpeculatorConfig"},
        "speculators_model_type": kind,
        "speculators_config": {
            "algorithm": kind,
            "default_proposal_method": "greedy",
            "proposal_methods": [{"accept_tolerance": 0.0, "proposal_type": "greedy",
                                  "speculative_tokens": tokens,
                                  "verifier_accept_k": 1}],
            "verifier": {"architectures": [architecture] if architecture else [], "name_or_path": named},
        },
        "transformer_layer_config": layer,
        **own,
    }  # fmt: skip


LLAMA_31_LAYER = decoder(4096, 14336, 32, 8, 128256, 2048, 1e-5, head_dim=128, mlp_bias=False,
                         rope_scaling=None,
                         rope_theta=10000.0, pretraining_tp=1)  # fmt: skip
QWEN3_8B_LAYER = decoder(4096, 12288, 32, 8, 151936, 40960, 1e-6, head_dim=128, mlp_bias=False,
                         rope_parameters={"rope_theta": 1000000, "rope_type": "default"})  # fmt: skip
QWEN3_FAMILY = {
    **QWEN3_8B_LAYER,
    "model_type": "qwen3",
    "num_hidden_layers": 5,
    "layer_types": ["full_attention"] * 5,
}
HUB = "https://huggingface.co/"
FORGE = "https://github.com/sgl-project/SpecForge/blob/main/configs/"

PUBLIC = {
    "nm-testing/EAGLE3-LLaMA3.1-Instruct-8B-converted": Public(
        HUB + "nm-testing/EAGLE3-LLaMA3.1-Instruct-8B-converted/blob/main/config.json", "speculators",
        native("eagle3", 5, "meta-llama/Llama-3.1-8B-Instruct", "LlamaForCausalLM", LLAMA_31_LAYER,
               architectures=["Eagle3Speculator"], draft_vocab_size=32000, has_no_defaults_at_init=False,
               norm_before_residual=False, speculators_version="0.1.0.dev14", target_hidden_size=None),
        LLAMA_31_8B, frozen_head=False,
    ),
    "RedHatAI/Llama-3.1-8B-Instruct-speculator.eagle3": Public(
        HUB + "RedHatAI/Llama-3.1-8B-Instruct-speculator.eagle3/commit/5b6cee4e4955", "speculators",
        native("eagle3", 5, "/proving-grounds/meta-llama/Llama-3.1-8B-Instruct", "LlamaForCausalLM",
               LLAMA_31_LAYER,
               architectures=["Eagle3Speculator"], draft_vocab_size=32000, has_no_defaults_at_init=False,
               norm_before_residual=True, speculators_version="0.2.0.dev11"),
        LLAMA_31_8B, files=("eagle3.py", "generation_config.json"),
    ),
    # Its hub page's config as far as the tests of NeMo RL quote it; the rest is what that writer writes.
    "RedHatAI/Qwen3-8B-speculator.eagle3": Public(
        "https://github.com/NVIDIA-NeMo/RL/blob/main/tests/unit/models/automodel/test_draft_config_adapters.py"
        " (commit 08610ff)", "speculators",
        native("eagle3", 3, "Qwen/Qwen3-8B", "Qwen3ForCausalLM",
               decoder(4096, 12288, 32, 8, 151936, 40960, 1e-6, head_dim=128, rope_theta=1000000),
               architectures=["Eagle3Speculator"], draft_vocab_size=32000, has_no_defaults_at_init=False,
               norm_before_residual=True, speculators_version="0.2.0.dev11"),
        QWEN3_8B,
    ),
    "inference-optimization/Mistral3_speculator_dummy": Public(
        HUB + "inference-optimization/Mistral3_speculator_dummy/blob/main/config.json", "speculators",
        native("eagle3", 3, "mistralai/Mistral-Large-3-675B-Instruct-2512-NVFP4", None,
               decoder(7168, 14336, 32, 8, 131072, 294912, 1e-6, head_dim=192, rope_scaling=None,
                       rope_theta=10000.0),
               architectures=["Eagle3DraftModel"], draft_vocab_size=32000,
               eagle_aux_hidden_state_layer_ids=None,
               embed_requires_grad=False, norm_before_fc=False, norm_before_residual=True,
               speculators_version="0.5.0.dev5", target_hidden_size=None),
        verifier("MistralLarge3ForCausalLM", 61, 294912, 10000.0, rope_type="yarn", factor=36.0),
    ),
    "RedHatAI/gpt-oss-20b-speculator.eagle3": Public(
        HUB + "RedHatAI/gpt-oss-20b-speculator.eagle3", "speculators",
        native("eagle3", 3, "openai/gpt-oss-20b", "GptOssForCausalLM",
               decoder(2880, 2880, 64, 8, 201088, 131072, 1e-5, head_dim=64, rope_theta=10000.0),
               architectures=["Eagle3DraftModel"], draft_vocab_size=64000, norm_before_fc=True,
               norm_before_residual=True),
        GPT_OSS_20B,
    ),
    "Qwen3-8B eagle3, as speculators 0.9.0 writes it": Public(
        "https://github.com/vllm-project/speculators (train, default options)", "speculators",
        native("eagle3", 3, "Qwen/Qwen3-8B", "Qwen3ForCausalLM",
               {**QWEN3_8B_LAYER, "layer_types": ["sliding_attention"], "sliding_window": 2048},
               architectures=["Eagle3DraftModel"], draft_vocab_size=32000,
               eagle_aux_hidden_state_layer_ids=[2, 18, 33], embed_requires_grad=False, fc_norm=False,
               norm_before_fc=True, norm_before_residual=True, norm_output=True, target_hidden_size=None),
        QWEN3_8B, files=("config.py",),
    ),
    "RedHatAI/Qwen3-8B-speculator.peagle": Public(
        HUB + "RedHatAI/Qwen3-8B-speculator.peagle", "speculators",
        native("peagle", 8, "Qwen/Qwen3-8B", "Qwen3ForCausalLM", {**QWEN3_8B_LAYER,
                                                                  "num_aux_hidden_states": 5},
               architectures=["PEagleDraftModel"], draft_vocab_size=32000,
               eagle_aux_hidden_state_layer_ids=[2, 10, 18, 26, 34], embed_requires_grad=True, fc_norm=False,
               norm_before_fc=False, norm_before_residual=True, norm_output=False, mask_token_id=151669),
        QWEN3_8B,
    ),
    "Qwen3-8B dflash, as speculators 0.9.0 writes it": Public(
        "https://github.com/vllm-project/speculators (train --speculator-type dflash)", "speculators",
        native("dflash", 15, "Qwen/Qwen3-8B", "Qwen3ForCausalLM", QWEN3_FAMILY,
               architectures=["DFlashDraftModel"],
               draft_vocab_size=32000, block_size=16, aux_hidden_state_layer_ids=[2, 18, 33],
               mask_token_id=151669,
               sample_from_anchor=False, sliding_window_non_causal=False),
        QWEN3_8B,
    ),
    "yuhuili/EAGLE-llama2-chat-7B": Public(
        HUB + "yuhuili/EAGLE-llama2-chat-7B/blob/main/config.json", "eagle",
        {**decoder(4096, 11008, 32, 32, 32000, 4096, 1e-6, rope_scaling=None, pretraining_tp=1),
         "architectures": ["LlamaForCausalLM"]},
        LLAMA_2_7B,
    ),
    "yuhuili/EAGLE-llama2-chat-13B": Public(
        HUB + "yuhuili/EAGLE-llama2-chat-13B/blob/main/config.json", "eagle",
        {**decoder(5120, 13824, 40, 40, 32000, 4096, 1e-5, rope_scaling=None, pretraining_tp=1),
         "architectures": ["LlamaForCausalLM"]},
        LLAMA_2_13B,
    ),
    "yuhuili/EAGLE-Vicuna-13B-v1.3": Public(
        HUB + "yuhuili/EAGLE-Vicuna-13B-v1.3/blob/main/config.json", "eagle",
        {**decoder(5120, 13824, 40, None, 32000, 2048, 1e-6), "architectures": ["LlamaForCausalLM"]},
        verifier("LlamaForCausalLM", 40, 2048, 10000.0),
    ),
    "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B": Public(
        HUB + "appleeji/eagle-training-code/blob/main/config.json (SafeAILab's training config)", "eagle3",
        {**decoder(4096, 14336, 32, 8, 128256, 2048, 1e-5), "architectures": ["LlamaForCausalLM"],
         "draft_vocab_size": 32000, "torch_dtype": "float16"},
        LLAMA_31_8B, frozen_head=False,
    ),
    "SpecForge llama3-8B": Public(
        FORGE + "llama3-8B-eagle3.json", "specforge",
        specforge(decoder(4096, 14336, 32, 8, 128256, 2048, 1e-5), 32000), LLAMA_31_8B, frozen_head=False,
    ),
    "SpecForge Qwen3-32B": Public(
        FORGE + "qwen3-32b-eagle3.json", "specforge",
        specforge(decoder(5120, 25600, 64, 8, 151936, 40960, 1e-6, head_dim=128, rope_scaling=None,
                          rope_theta=1000000, sliding_window=None, use_sliding_window=False), 32000),
        QWEN3_32B, frozen_head=False,
    ),
    "SpecForge Qwen3-235B-A22B": Public(
        FORGE + "qwen3-235B-A22B-eagle3.json", "specforge",
        specforge(decoder(4096, 24576, 64, 4, 151936, 40960, 1e-6, head_dim=128, rope_scaling=None,
                          rope_theta=1000000.0), 32000, [1, 46, 90]),
        QWEN3_235B, frozen_head=False,
    ),
    "SpecForge Qwen3-30B-A3B, EAGLE-3.1": Public(
        FORGE + "qwen3-30B-A3B-eagle3.1.json", "specforge",
        specforge(decoder(2048, 12288, 32, 4, 151936, 2048, 1e-6, head_dim=128, rope_scaling=None,
                          rope_theta=1000000.0, sliding_window=None), 32000, fc_norm=True, norm_output=True),
        QWEN3_30B_A3B, frozen_head=False,
    ),
    "SpecForge gpt-oss-120B": Public(
        FORGE + "gpt-oss-120B-eagle3.json", "specforge",
        specforge(decoder(2880, 17280, 64, 8, 201088, 4096, 1e-5, head_dim=64), 32000, [1, 17, 33]),
        GPT_OSS_120B, frozen_head=False,
    ),
    "SpecForge DeepSeek-V3": Public(
        FORGE + "deepseek-v3-671b-eagle3.json", "specforge",
        specforge(decoder(7168, 40960, 56, 8, 129280, 163840, 1e-5), 32000, [1, 29, 57]),
        DEEPSEEK_V3, frozen_head=False,
    ),
    "SpecForge Mistral-Small-24B": Public(
        FORGE + "mistral-small-24B-eagle3.json", "specforge",
        specforge(decoder(5120, 32768, 32, 8, 131072, 32768, 1e-5, head_dim=128, rope_theta=100000000.0),
                  32000),
        verifier("MistralForCausalLM", 40, 32768, 100000000.0), frozen_head=False,
    ),
    "SpecForge Phi-4-mini": Public(
        FORGE + "phi4-mini-eagle3.json", "specforge",
        specforge(decoder(3072, 8192, 24, 8, 200064, 131072, 1e-5, rope_theta=10000.0, model_type="phi3",
                          tie_word_embeddings=True), 32000),
        verifier("Phi3ForCausalLM", 32, 131072, 10000.0, rope_type="longrope", partial_rotary_factor=0.75),
        frozen_head=False,
    ),
    "AQ-MedAI/Kimi-K2-Instruct-eagle3": Public(
        HUB + "AQ-MedAI/Kimi-K2-Instruct-eagle3/blob/main/config.json", "specforge",
        specforge(decoder(7168, 18432, 64, 64, 163840, 131072, 1e-6, head_dim=128, rope_scaling=None,
                          rope_theta=1000000.0, sliding_window=None), 32000, [2, 30, 58]),
        KIMI_K2, frozen_head=False,
    ),
    "AQ-MedAI/Kimi-K25-eagle3": Public(
        HUB + "AQ-MedAI/Kimi-K25-eagle3/blob/main/config.json", "specforge",
        specforge(decoder(7168, 18432, 64, 64, 163840, 262144, 1e-6, head_dim=128, rope_scaling=None,
                          rope_theta=1000000.0, sliding_window=None), 32000, [2, 30, 58]),
        {**KIMI_K2, "max_position_embeddings": 262144}, frozen_head=False,
    ),
    "zjxia/step-3.5-flash-eagle3-SpecForge-draft": Public(
        HUB + "zjxia/step-3.5-flash-eagle3-SpecForge-draft/blob/main/config.json", "specforge",
        specforge(decoder(4096, 11264, 64, 8, 128896, 262144, 1e-5, head_dim=64, rope_scaling=None,
                          rope_theta=10000.0), 32000, [4, 20, 40]),
        verifier("Step3p5ForCausalLM", 45, 262144, 10000.0), frozen_head=False,
    ),
    "linglingdan/eagle3_for_MiniCPM4": Public(
        HUB + "linglingdan/eagle3_for_MiniCPM4/blob/main/config.json", "specforge",
        specforge(decoder(4096, 16384, 32, 2, 73448, 32768, 1e-6, rope_scaling=None, rope_theta=10000.0,
                          initializer_range=0.1), 15000),
        verifier("MiniCPMForCausalLM", 32, 32768, 10000.0, rope_type="longrope"), frozen_head=False,
    ),
    "z-lab/Qwen3-4B-DFlash-b16": Public(
        HUB + "z-lab/Qwen3-4B-DFlash-b16/blob/main/config.json", "dflash",
        {**decoder(2560, 9728, 32, 8, 151936, 40960, 1e-6, head_dim=128, rope_theta=1000000),
         "architectures": ["DFlashDraftModel"], "model_type": "qwen3", "num_hidden_layers": 5,
         "block_size": 16,
         "dflash_config": {"mask_token_id": 151669, "target_layer_ids": [1, 9, 17, 25, 33]},
         "num_target_layers": 36, "tie_word_embeddings": True},
        QWEN3_8B, files=("dflash.py",),
    ),
    "Qwen3-8B dflash2, as speculators 0.9.0 writes it": Public(
        "https://github.com/vllm-project/speculators (train --speculator-type dflash2)", "speculators",
        native("dflash2", 7, "Qwen/Qwen3-8B", "Qwen3ForCausalLM",
               {**QWEN3_FAMILY, "layer_types": ["sliding_attention"] * 5, "sliding_window": 2048},
               architectures=["DFlash2DraftModel"], draft_vocab_size=151936, block_size=8,
               aux_hidden_state_layer_ids=[2, 10, 18, 26, 34], mask_token_id=151669, sample_from_anchor=False,
               sliding_window_non_causal=True, conv_kernel_size=2, conv_group_size=16, selector_rank=256,
               selector_top_k=16, dtype="bfloat16"),
        QWEN3_8B, files=("config.py",),
    ),
    "Qwen3-8B dspark, as speculators 0.9.0 writes it": Public(
        "https://github.com/vllm-project/speculators (train --speculator-type dspark)", "speculators",
        native("dspark", 8, "Qwen/Qwen3-8B", "Qwen3ForCausalLM", QWEN3_FAMILY,
               architectures=["DSparkDraftModel"], draft_vocab_size=32000, block_size=8,
               aux_hidden_state_layer_ids=[2, 18, 33], mask_token_id=151669, sample_from_anchor=True,
               sliding_window_non_causal=False, markov_rank=256, markov_head_type="vanilla",
               enable_confidence_head=True, confidence_head_with_markov=True),
        QWEN3_8B,
    ),
    # Of its page's config the keys and sizes that engines quote, of which positions are none.
    "RedHatAI's dspark draft of GLM-5.2": Public(
        HUB + "RedHatAI (sizes and keys as engines that load it keep them in their tests)", "speculators",
        native("dspark", 15, "zai-org/GLM-5.2", "GlmMoeDsaForCausalLM",
               decoder(6144, 12288, 64, 64, 154880, 202752, 1e-5, head_dim=64, model_type="qwen3",
                       num_hidden_layers=5,
                       rope_parameters={"rope_theta": 8000000, "rope_type": "default"}),
               architectures=["DSparkDraftModel"], draft_vocab_size=154880, block_size=16,
               aux_hidden_state_layer_ids=[8, 23, 39, 55, 70], mask_token_id=154856, max_anchors=1024,
               markov_rank=256, markov_head_type="vanilla", enable_confidence_head=True,
               confidence_head_with_markov=True, tie_word_embeddings=False),
        verifier("GlmMoeDsaForCausalLM", 78, 202752, 8000000),
    ),
    "Qwen3.5-27B mtp, as speculators 0.9.0 takes it out": Public(
        "https://github.com/vllm-project/speculators (convert --algorithm mtp)", "speculators",
        native("mtp", 3, "Qwen/Qwen3.5-27B", "Qwen3_5ForConditionalGeneration",
               decoder(5120, 17408, 24, 4, 248320, 262144, 1e-6, head_dim=256, model_type="qwen3_5_text",
                       num_hidden_layers=64, mtp_num_hidden_layers=1, partial_rotary_factor=0.25,
                       rope_parameters={"rope_theta": 10000000, "rope_type": "default",
                                        "mrope_interleaved": True, "mrope_section": [11, 11, 10],
                                        "partial_rotary_factor": 0.25}),
               architectures=["MTPDraftModel"], num_nextn_predict_layers=1),
        verifier("Qwen3_5ForConditionalGeneration", 64, 262144, 10000000, partial_rotary_factor=0.25),
    ),
    # Public are its layers and the keys of its writer; sizes and vocabulary are those of its verifier.
    "nvidia/Llama-4-Maverick-17B-128E-Eagle3": Public(
        "https://github.com/vllm-project/vllm/pull/25961 (its layers), NVIDIA/Model-Optimizer (its keys)",
        "nvidia",
        {**decoder(5120, 16384, 40, 8, 202048, 1048576, 1e-5, head_dim=128, mlp_bias=False,
                   rope_theta=500000.0, rope_scaling=LLAMA3),
         "architectures": ["LlamaForCausalLMEagle3"], "parallel_draft_step": 1,
         "eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 23, 44], "use_aux_hidden_state": True,
                          "use_input_layernorm_in_first_layer": True, "use_last_layernorm": True,
                          "use_mtp_layernorm": False}},
        verifier("Llama4ForConditionalGeneration", 48, 1048576, 500000.0, **LLAMA3), frozen_head=False,
    ),
    "Model-Optimizer's default EAGLE-3 of Llama-3.1-8B": Public(
        "https://github.com/NVIDIA/Model-Optimizer (speculative/eagle/default_config.py)", "nvidia",
        {**decoder(4096, 14336, 32, 8, 128256, 131072, 1e-5, head_dim=128, mlp_bias=False,
                   rope_theta=500000.0, rope_scaling=LLAMA3, initializer_range=0.01),
         "architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": 32000, "torch_dtype": "bfloat16",
         "eagle_config": {"eagle_aux_hidden_state_layer_ids": [], "use_aux_hidden_state": True,
                          "use_input_layernorm_in_first_layer": True, "use_last_layernorm": False,
                          "use_mtp_layernorm": False, "parallel_draft_step": 1, "has_lm_head": True},
         "producer": {"name": "modelopt"}},
        LLAMA_31_8B, frozen_head=False,
    ),
    "NeMo Automodel's EAGLE-3 of Llama-3.1-8B, exported for vLLM": Public(
        "https://github.com/NVIDIA-NeMo/Automodel (speculative/eagle, and its export for vLLM)", "nemo",
        {**decoder(4096, 14336, 32, 8, 128256, 131072, 1e-5, head_dim=128, mlp_bias=False,
                   rope_theta=500000.0, rope_scaling=LLAMA3),
         "architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": 32000, "target_hidden_size": 4096},
        LLAMA_31_8B, frozen_head=False,
    ),
    "TorchSpec Kimi-K2.5": Public(
        "https://github.com/torchspec-project/TorchSpec/blob/main/configs/draft_models/kimi_k25_eagle3.json",
        "torchspec",
        {**decoder(7168, 12288, 64, 64, 163840, 262144, 1e-6, head_dim=128, rope_scaling=None,
                   rope_theta=1000000, sliding_window=None, use_sliding_window=False),
         "architectures": ["LlamaForCausalLMEagle3"], "max_window_layers": 36, "torch_dtype": "bfloat16"},
        {**KIMI_K2, "max_position_embeddings": 262144}, frozen_head=False,
    ),
}  # fmt: skip
RANK = 8


def own_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """What drafts that only others train have beside the tensors of their kin, as speculators 0.9.0 writes
    them."""
    layers = range(config["transformer_layer_config"]["num_hidden_layers"])
    if config["speculators_model_type"] == "dspark":
        return {"markov_head.markov_w1.weight": (VOCAB, RANK),
                "markov_head.markov_w2.weight": (config["draft_vocab_size"], RANK),
                "confidence_head.proj.weight": (1, HIDDEN + RANK),
                "confidence_head.proj.bias": (1,)}  # fmt: skip
    if config["speculators_model_type"] == "dflash2":
        taps, group = config["conv_kernel_size"], config["conv_group_size"]
        convolutions = [f"layers.{index}.{part}_conv" for index in layers for part in ("attention", "mlp")]
        shapes = {f"{name}.base_kernel": (2, taps, HIDDEN) for name in convolutions}
        shapes |= {f"{name}.kernel_projection.weight": (2 * taps * HIDDEN // group, HIDDEN)
                   for name in convolutions}  # fmt: skip
        books = {
            f"candidate_selector.{part}_codebook": (VOCAB, RANK) for part in ("predecessor", "successor")
        }
        return {**shapes, **books, "candidate_selector.hidden_projection.weight": (RANK, HIDDEN)}
    return {}


def head_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """A native head, apart from its verifier."""
    layer = layer_shapes({**config["transformer_layer_config"], "model_type": "qwen3"}, HIDDEN)
    norms = ("hidden_layernorm", "token_layernorm", "final_layernorm")
    shapes = {
        **layer,
        "input_proj.weight": (HIDDEN, 2 * HIDDEN),
        **{f"{name}.weight": (HIDDEN,) for name in norms},
    }
    return {f"mtp_layers.0.{name}": shape for name, shape in shapes.items()}


def shrunk(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same config with small sizes; equal stays equal, unwritten stays unwritten."""
    small = copy.deepcopy(dict(config))
    if isinstance(small.get("transformer_layer_config"), dict):
        small["transformer_layer_config"] = shrunk(small["transformer_layer_config"])
    vocab = config.get("vocab_size") or config.get("transformer_layer_config", {}).get("vocab_size")
    sizes = {
        "hidden_size": HIDDEN,
        "target_hidden_size": HIDDEN,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 4
        if config.get("num_key_value_heads") == config.get("num_attention_heads")
        else 2,
        "head_dim": 32,
        "vocab_size": VOCAB,
        "draft_vocab_size": VOCAB if config.get("draft_vocab_size") == vocab else DRAFT_VOCAB,
        "mask_token_id": VOCAB - 7,
    }
    for place in (small, small.get("dflash_config") or {}):
        place.update({name: size for name, size in sizes.items() if place.get(name) is not None})
    return small


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.1


def write_verifier(folder: Path, facts: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """A verifier with these facts, small, and its tensors."""
    folder.mkdir(parents=True)
    sizes = {"model_type": "llama", "hidden_size": HIDDEN, "vocab_size": VOCAB, "intermediate_size": 96,
             "num_attention_heads": 4, "rms_norm_eps": 1e-6, "tie_word_embeddings": False}  # fmt: skip
    (folder / "config.json").write_text(json.dumps({**sizes, **facts}))
    ends = {"model.embed_tokens.weight": random(VOCAB, HIDDEN), "model.norm.weight": random(HIDDEN),
            "lm_head.weight": random(VOCAB, HIDDEN + 1)[:, :-1].contiguous()}  # fmt: skip
    save_file(ends, folder / "model.safetensors")
    return ends


def shapes_of(public: Public, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors that such a draft has."""
    if public.layout == "speculators":
        full, _ = completed(config, public.verifier["num_hidden_layers"])
        known = compared_format(full)
        if known is None:
            return head_shapes(full)
        return {**known.tensors(full).required, **known.tensors(full).optional, **own_shapes(full)}
    depth = config["num_hidden_layers"]
    if public.layout == "eagle":
        shapes = {"fc.weight": (HIDDEN, 2 * HIDDEN), "embed_tokens.weight": (VOCAB, HIDDEN)}
        shapes |= within(0, layer_shapes(config, HIDDEN))
        del shapes["layers.0.input_layernorm.weight"]
        return shapes
    if public.layout == "dflash":
        count = len(config["dflash_config"]["target_layer_ids"])
        shapes = {
            "fc.weight": (HIDDEN, count * HIDDEN),
            "hidden_norm.weight": (HIDDEN,),
            "norm.weight": (HIDDEN,),
        }
        return shapes | {name: shape for index in range(depth)
                         for name, shape in within(index, layer_shapes(config, HIDDEN)).items()}  # fmt: skip
    one = {**layer_shapes({**config, "model_type": "llama"}, 2 * HIDDEN), "hidden_norm.weight": (HIDDEN,)}
    first = "layers.0" if public.layout in ("nvidia", "nemo") else "midlayer"
    shapes = {f"{first}.{name}": shape for name, shape in one.items()}
    shapes |= {"fc.weight": (HIDDEN, 3 * HIDDEN), "norm.weight": (HIDDEN,), "d2t": (DRAFT_VOCAB,),
               "t2d": (VOCAB,),
               "lm_head.weight": (DRAFT_VOCAB, HIDDEN), "embed_tokens.weight": (VOCAB, HIDDEN)}  # fmt: skip
    if "draft_vocab_size" not in config:  # the verifier's own vocabulary
        del shapes["d2t"], shapes["t2d"]
        shapes["lm_head.weight"] = (VOCAB, HIDDEN)
    if config.get("fc_norm"):
        shapes |= {f"fc_norm.{index}.weight": (HIDDEN,) for index in range(3)}
    return shapes


def build(name: str, root: Path) -> tuple[Path, Path]:
    """The draft's folder and its verifier's."""
    public = PUBLIC[name]
    folder, config = root / "draft", shrunk(public.config)
    ends = write_verifier(root / "verifier", public.verifier)
    ids = torch.cat([torch.arange(3, 30), torch.arange(40, 124, 4)])  # DRAFT_VOCAB tokens
    marked = torch.zeros(VOCAB, dtype=torch.bool).index_fill(0, ids, True)
    tensors = {tensor: random(*shape) for tensor, shape in shapes_of(public, config).items()}
    made = {"d2t": ids - torch.arange(DRAFT_VOCAB), "t2d": marked,
            "embed_tokens.weight": ends["model.embed_tokens.weight"].clone()}  # fmt: skip
    if public.frozen_head:
        head = ends["lm_head.weight"]
        made["lm_head.weight"] = head[ids] if "d2t" in tensors else head.clone()
    tensors |= {tensor: value for tensor, value in made.items() if tensor in tensors}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    for extra in public.files:
        (folder / extra).write_text("{}" if extra.endswith(".json") else "")
    return folder, root / "verifier"


def inspected(name: str, root: Path) -> list[Inspection]:
    """With its verifier, and without."""
    folder, verifier_dir = build(name, root)
    return [inspect_draft(folder, verifier_dir), inspect_draft(folder)]


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        print("| public draft | layout | defects | worth a look |\n|---|---|---|---|")
        for number, (name, public) in enumerate(PUBLIC.items()):
            found, _ = inspected(name, Path(scratch) / str(number))
            looks = ", ".join(f"{one.trap} {one.name}" for one in found.findings if not one.is_defect)
            defects = ", ".join(f"{one.trap} {one.name}" for one in found.defects)
            print(f"| {name} | {public.layout} | {defects or 'none'} | {looks or 'nothing'} |")


if __name__ == "__main__":
    main()
