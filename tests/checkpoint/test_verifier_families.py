"""What is read from a verifier's files gives transformers' own logits, family by family.

Each verifier is tiny and random, norms included, and lies on disk as transformers saves it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from speculators.checkpoint.verifier_layout import LAYER_NORMS, ONE_PLUS_NORMS, UNLIKE
from speculators.checkpoint.verifier_weights import load_verifier_weights
from speculators.datagen.probe import references
from speculators.datagen.shards import Document

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
MIXED = {"num_experts": 2, "num_experts_per_tok": 1}


def qwen3_vl() -> Any:
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"deepstack_visual_indexes": [0]}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    return transformers.Qwen3VLConfig(text_config={**SIZES, "rope_parameters": rope}, vision_config=vision)


def llama4() -> Any:
    text = {**SIZES, **EXPERTS, "intermediate_size_mlp": 48}
    vision = {**VISION, "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16}
    return transformers.Llama4Config(text_config=text, vision_config=vision)


def cohere_compass() -> Any:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    return transformers.CohereCompassTextConfig(
        **SIZES, logit_scale=0.25, rope_parameters={"full_attention": rope}
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "Llama 3": lambda: transformers.LlamaConfig(**SIZES),
    "Llama 3, tied": lambda: transformers.LlamaConfig(**SIZES, tie_word_embeddings=True),
    "Llama 4": llama4,
    "Qwen3": lambda: transformers.Qwen3Config(**SIZES),
    "Qwen3-MoE": lambda: transformers.Qwen3MoeConfig(
        **SIZES, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16
    ),
    "Qwen3-VL": qwen3_vl,
    "Qwen3-Next, 1 + w": lambda: transformers.Qwen3NextConfig(
        **SIZES, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16,
        shared_expert_intermediate_size=16, layer_types=["full_attention"] * 2,
    ),
    "gpt-oss": lambda: transformers.GptOssConfig(**SIZES, **EXPERTS, layer_types=["full_attention"] * 2),
    "Mistral 3": lambda: transformers.Mistral3Config(
        text_config={"model_type": "mistral", **SIZES}, vision_config={"model_type": "pixtral", **VISION}
    ),
    "Gemma 2, capped": lambda: transformers.Gemma2Config(**SIZES, final_logit_softcapping=0.5),
    "Gemma 3": lambda: transformers.Gemma3Config(text_config=SIZES, vision_config=VISION),
    "Granite, divided": lambda: transformers.GraniteConfig(**SIZES, logits_scaling=8.0),
    "HyperCLOVA X, multiplied": lambda: transformers.HyperCLOVAXConfig(**SIZES, logits_scaling=0.25),
    "Cohere 2, LayerNorm": lambda: transformers.Cohere2Config(**SIZES, logit_scale=0.0625),
    "Cohere 2 MoE, LayerNorm": lambda: transformers.Cohere2MoeConfig(**SIZES, **MIXED, logit_scale=0.25),
    "Cohere 2 MoE, RMSNorm": lambda: transformers.Cohere2MoeConfig(**SIZES, **MIXED, rms_norm_eps=1e-4),
    "Cohere Compass, LayerNorm": cohere_compass,
    "Starcoder 2, LayerNorm with bias": lambda: transformers.Starcoder2Config(**SIZES),
}  # fmt: skip


def build(config: Any) -> Any:
    """The random model; every norm differs from one, or a wrong reading of it would not show."""
    torch.manual_seed(0)
    multimodal = config.get_text_config() is not config
    auto = transformers.AutoModelForImageTextToText if multimodal else transformers.AutoModelForCausalLM
    model = auto.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, mean=0.7, std=0.3)
        else:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def states_and_logits(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What goes into the final norm, and the logits that come out in the end."""
    decoder = next(module for module in model.modules() if "embed_tokens" in dict(module.named_children()))
    seen: list[torch.Tensor] = []
    with decoder.norm.register_forward_pre_hook(lambda module, given: seen.append(given[0])), torch.no_grad():
        ids = torch.arange(3, 19)[None]  # [1, T]
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return seen[0], logits


@pytest.mark.parametrize("family", FAMILIES)
def test_the_ends_on_disk_give_the_models_own_logits(family: str, tmp_path: Path) -> None:
    model = build(FAMILIES[family]())
    model.save_pretrained(tmp_path)
    ends = load_verifier_weights(tmp_path)
    states, logits = states_and_logits(model)
    assert torch.equal(ends.embedding, model.get_input_embeddings().weight)
    assert (ends.head is ends.embedding) == bool(model.config.tie_word_embeddings)
    assert torch.allclose(ends.logits(states), logits, atol=1e-5, rtol=1e-5)
    assert logits.abs().max() > 0.05  # a comparison of zeros would prove nothing


@pytest.mark.parametrize("family", FAMILIES)
def test_the_golden_probe_computes_every_layer(family: str, tmp_path: Path) -> None:
    model = build(FAMILIES[family]())
    model.save_pretrained(tmp_path)
    ids = torch.arange(3, 19)
    document = Document("a", "g", "train", False, 4, ids, torch.empty(0))
    (reference,) = references(tmp_path, [document])
    states, logits = states_and_logits(model)
    assert reference.layers.shape == (SIZES["num_hidden_layers"] + 1, len(ids), SIZES["hidden_size"])
    assert torch.allclose(reference.layers[-1], states[0], atol=1e-5, rtol=1e-5)
    ends = load_verifier_weights(tmp_path)
    assert torch.allclose(ends.logits(reference.layers[-1]), logits[0], atol=1e-5, rtol=1e-5)


#: Families of transformers that compute 1 + weight somewhere, but not in a text decoder's last norm.
ELSEWHERE = {"muse_glimmer", "t5gemma", "t5gemma2", "videoprism"}


def test_every_family_of_transformers_with_one_plus_norms_is_known() -> None:
    models = Path(transformers.__file__).parent / "models"
    adds_one = re.compile(r"1(\.0)? \+ self\.weight|self\.weight(\.float\(\))? \+ 1")
    families = {
        path.parent.name for path in models.glob("*/modeling_*.py") if adds_one.search(path.read_text())
    }
    known = {re.sub("_(vl_)?text$|_vl_text$", "", model_type) for model_type in (*ONE_PLUS_NORMS, *UNLIKE)}
    known |= {"minimax_m3_vl"}
    assert families - ELSEWHERE <= known
    assert {"gemma3", "qwen3_next", "qwen3_5"} <= families


def test_every_family_of_transformers_with_a_layer_norm_of_its_own_is_known() -> None:
    models = Path(transformers.__file__).parent / "models"
    centred = {path.parent.name for path in models.glob("*/modeling_*.py")
               if "hidden_states.mean(-1, keepdim=True)" in path.read_text()}  # fmt: skip
    assert centred - {"deberta"} <= {model_type.removesuffix("_text") for model_type in LAYER_NORMS}
    assert {"cohere", "cohere2_moe"} <= centred
