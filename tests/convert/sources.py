"""Synthetic checkpoints in the layouts of other trainers, made from one random EAGLE-3 draft.

The same draft under every layout: so a conversion must always give the same tensors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.models import tiny

DEPTH, VOCAB, DRAFT_VOCAB = 12, 50, 20
IDS = (2, 6, 9)  # the default of twelve layers, after-layer
DRAFT_IDS = torch.cat([torch.arange(2, 12), torch.arange(15, 45, 3)])  # neighbours, then gaps, as real ones
CONFIG = tiny.config(aux_layers=IDS, norm_before_fc=False)

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 64,
    "vocab_size": VOCAB, "torch_dtype": "float32", "use_cache": True, "somebody_elses": 1,
}  # fmt: skip


def verifier(folder: Path, **changes: Any) -> Path:
    tiny.write_verifier(folder)
    document = {**json.loads((folder / "config.json").read_text()), "num_hidden_layers": DEPTH, **changes}
    (folder / "config.json").write_text(json.dumps(document))
    return folder


#: How families say of the same verifier what a draft hangs on, or leave it to their class: config's keys.
VERIFIERS: dict[str, dict[str, Any]] = {
    "Gemma 3, published": {
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "vision_config": {},
        "text_config": {"hidden_size": 16, "num_hidden_layers": DEPTH, "model_type": "gemma3_text",
                        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
    },
    "EXAONE": {
        "architectures": ["ExaoneForCausalLM"], "model_type": "exaone", "hidden_size": 16,
        "num_layers": DEPTH, "vocab_size": VOCAB, "max_position_embeddings": 128, "num_attention_heads": 4,
        "layer_norm_epsilon": 1e-5,
    },
    "GPT-2": {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 16, "n_layer": DEPTH,
        "n_head": 4, "n_positions": 128, "vocab_size": VOCAB, "layer_norm_epsilon": 1e-5,
    },
    "LLaVA": {
        "architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "vision_config": {},
        "text_config": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB,
                        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
    },
    "nulls": {"architectures": None, "hidden_size": 16, "num_hidden_layers": DEPTH, "vocab_size": None,
              "max_position_embeddings": None, "text_config": None},
}  # fmt: skip


def eagle3_tensors(first: str = "midlayer") -> dict[str, torch.Tensor]:
    """The draft as SafeAILab names it, with its offset map."""
    state = tiny.draft(CONFIG, dtype=torch.float32).state_dict()
    tensors = {name.replace("layers.0.", f"{first}."): tensor for name, tensor in state.items()}
    tensors["lm_head.weight"] = torch.randn(DRAFT_VOCAB, 16, generator=torch.Generator().manual_seed(5))
    tensors["d2t"] = DRAFT_IDS - torch.arange(DRAFT_VOCAB)
    tensors["t2d"] = torch.zeros(VOCAB, dtype=torch.bool).index_fill(0, DRAFT_IDS, True)
    return tensors


def write(
    folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor], pickled: bool = False
) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if pickled:
        torch.save(whole, folder / "pytorch_model.bin")
    else:
        save_file(whole, folder / "model.safetensors")
    return folder


def safeailab(folder: Path, **options: bool) -> Path:
    return write(folder, {**LLAMA, "draft_vocab_size": DRAFT_VOCAB}, eagle3_tensors(), **options)


def specforge(folder: Path) -> Path:
    """Its own class name, ids as layer outputs, an embedding of its own."""
    tensors = {**eagle3_tensors(), "embed_tokens.weight": torch.randn(VOCAB, 16)}
    config = {**LLAMA, "architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": DRAFT_VOCAB}
    config["eagle_config"] = {"eagle_aux_hidden_state_layer_ids": [1, 5, 8], "use_aux_hidden_state": True}
    return write(folder, config, tensors)


def nvidia(folder: Path, ids: tuple[int, ...] = (1, 5, 8)) -> Path:
    config = {**LLAMA, "architectures": ["LlamaForCausalLMEagle3"], "parallel_draft_step": 1}
    config["eagle_config"] = {"eagle_aux_hidden_state_layer_ids": list(ids), "use_aux_hidden_state": True}
    return write(folder, config, eagle3_tensors("layers.0"))


def nemo(folder: Path, architecture: str = "LlamaEagle3DraftModel") -> Path:
    """Its own class name, and every name under ``model.``."""
    tensors = {f"model.{name}": tensor for name, tensor in eagle3_tensors("layers.0").items()}
    config = {**LLAMA, "architectures": [architecture], "draft_vocab_size": DRAFT_VOCAB}
    config["eagle_config"] = {"eagle_aux_hidden_state_layer_ids": [1, 5, 8], "use_aux_hidden_state": True}
    return write(folder, config, tensors)


def eagle1(folder: Path, **more: torch.Tensor) -> Path:
    torch.manual_seed(3)
    shapes = {
        "fc.weight": (16, 32), "embed_tokens.weight": (VOCAB, 16),
        "layers.0.self_attn.q_proj.weight": (32, 16), "layers.0.self_attn.k_proj.weight": (16, 16),
        "layers.0.self_attn.v_proj.weight": (16, 16), "layers.0.self_attn.o_proj.weight": (16, 32),
        "layers.0.mlp.gate_proj.weight": (24, 16), "layers.0.mlp.up_proj.weight": (24, 16),
        "layers.0.mlp.down_proj.weight": (16, 24), "layers.0.post_attention_layernorm.weight": (16,),
    }  # fmt: skip
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    return write(folder, {**LLAMA, "bias": False}, {**tensors, **more})


def dflash(folder: Path) -> Path:
    torch.manual_seed(4)
    tensors = {
        "fc.weight": torch.randn(16, 48),
        "hidden_norm.weight": torch.rand(16),
        "norm.weight": torch.rand(16),
    }
    for index in range(2):
        shapes = {
            "self_attn.q_proj": (32, 16), "self_attn.k_proj": (16, 16), "self_attn.v_proj": (16, 16),
            "self_attn.o_proj": (16, 32), "self_attn.q_norm": (8,), "self_attn.k_norm": (8,),
            "mlp.gate_proj": (24, 16), "mlp.up_proj": (24, 16), "mlp.down_proj": (16, 24),
            "input_layernorm": (16,), "post_attention_layernorm": (16,),
        }  # fmt: skip
        tensors |= {
            f"layers.{index}.{name}.weight": torch.rand(shape) - 0.2 for name, shape in shapes.items()
        }
    config = {**LLAMA, "architectures": ["DFlashDraftModel"], "model_type": "qwen3", "num_hidden_layers": 2}
    config |= {"block_size": 4, "num_target_layers": DEPTH, "auto_map": {"AutoModel": "dflash.DFlash"}}
    config["dflash_config"] = {"mask_token_id": 49, "target_layer_ids": [1, 5, 8]}
    return write(folder, config, tensors)


def mtp(folder: Path, experts: int = 0) -> Path:
    """A verifier with a native head; with ``experts`` its feed-forward is a mixture."""
    tiny.write_verifier(folder)
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    torch.manual_seed(6)
    head = {"fc": (16, 32), "norm": (16,), "pre_fc_norm_hidden": (16,), "pre_fc_norm_embedding": (16,)}
    layer = {"self_attn.q_proj": (64, 16), "self_attn.k_proj": (16, 16), "self_attn.v_proj": (16, 16),
             "self_attn.o_proj": (16, 32), "self_attn.q_norm": (8,), "self_attn.k_norm": (8,),
             "input_layernorm": (16,), "post_attention_layernorm": (16,)}  # fmt: skip
    places = [f"experts.{index}." for index in range(experts)] + ["shared_expert."] if experts else [""]
    for place in places:
        layer |= {f"mlp.{place}{part}": shape for part, shape in
                  (("gate_proj", (4, 16)), ("up_proj", (4, 16)), ("down_proj", (16, 4)))}  # fmt: skip
    if experts:
        layer |= {"mlp.gate": (experts, 16), "mlp.shared_expert_gate": (1, 16)}
    head |= {f"layers.0.{name}": shape for name, shape in layer.items()}
    document = json.loads((folder / "config.json").read_text())
    document["rope_parameters"] |= {"partial_rotary_factor": 0.5}
    (folder / "config.json").write_text(json.dumps({**document, "num_experts_per_tok": 2}))
    tensors |= {f"mtp.{name}.weight": torch.randn(shape) for name, shape in head.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder
