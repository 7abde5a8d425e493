"""A random verifier with a native multi-token head that vLLM's CPU build runs, and what that head drafts.

A Qwen3-Next, whose attention is full in all layers and which has experts: vLLM 0.32 refuses one without
(``set_moe_parameters``), and its Qwen3.5 needs torchvision.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from speculators.checkpoint.model import SpeculatorModel
from speculators.checkpoint.verifier_weights import load_verifier_weights
from speculators.convert.forward_mtp import EXTRACTED, mtp_states
from speculators.convert.proof import model_weights
from speculators.documents import read_json
from tests.models.words import write_tokenizer

LAYERS, VOCAB, HIDDEN, HEADS, WIDTH = 2, 64, 64, 2, 32
EXPERTS, INNER = 4, 32
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "vocab_size": VOCAB,
    "hidden_size": HIDDEN, "intermediate_size": 96, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": 1, "head_dim": WIDTH, "attention_bias": False,
    "layer_types": ["full_attention"] * LAYERS, "num_experts": EXPERTS, "num_experts_per_tok": 2,
    "moe_intermediate_size": INNER, "shared_expert_intermediate_size": INNER, "decoder_sparse_step": 1,
    "mlp_only_layers": [], "norm_topk_prob": True, "rms_norm_eps": 1e-5, "hidden_act": "silu",
    "max_position_embeddings": 256, "tie_word_embeddings": False, "eos_token_id": 0, "dtype": "float32",
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    "num_nextn_predict_layers": 1, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
}  # fmt: skip


def layer_shapes(prefix: str) -> dict[str, tuple[int, ...]]:
    """A decoder layer with a gated attention and experts, shared and routed."""
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (2 * HEADS * WIDTH, HIDDEN), "self_attn.k_proj": (WIDTH, HIDDEN),
        "self_attn.v_proj": (WIDTH, HIDDEN), "self_attn.o_proj": (HIDDEN, HEADS * WIDTH),
        "self_attn.q_norm": (WIDTH,), "self_attn.k_norm": (WIDTH,), "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,), "mlp.gate": (EXPERTS, HIDDEN),
        "mlp.shared_expert_gate": (1, HIDDEN),
    }  # fmt: skip
    for expert in (*(f"experts.{number}" for number in range(EXPERTS)), "shared_expert"):
        shapes |= {f"mlp.{expert}.{name}_proj": (INNER, HIDDEN) for name in ("gate", "up")}
        shapes[f"mlp.{expert}.down_proj"] = (HIDDEN, INNER)
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def write_native(folder: Path) -> None:
    """Leave the verifier, its head and a tokenizer in ``folder``; always the same bytes.

    Gains are near zero, because this family's norms multiply by one more.
    """
    write_tokenizer(folder)
    shapes = {
        "model.embed_tokens": (VOCAB, HIDDEN), "model.norm": (HIDDEN,), "lm_head": (VOCAB, HIDDEN),
        "mtp.fc": (HIDDEN, 2 * HIDDEN), "mtp.norm": (HIDDEN,), "mtp.pre_fc_norm_hidden": (HIDDEN,),
        "mtp.pre_fc_norm_embedding": (HIDDEN,), **layer_shapes("mtp.layers.0"),
    }  # fmt: skip
    for index in range(LAYERS):
        shapes |= layer_shapes(f"model.layers.{index}")
    generator = torch.Generator().manual_seed(6)
    tensors = {
        f"{name}.weight": torch.randn(shape, generator=generator)
        * (0.2 if len(shape) == 1 else shape[-1] ** -0.5)
        for name, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))


def drafted(verifier: Path, head: Path, rows: Sequence[dict[str, Any]], steps: int) -> list[list[list[int]]]:
    """What the extracted head guesses from every row of the tokens in ``rows``: a list [T - 1, steps] each.

    The verifier's states are transformers' own; a guess continues the sequence up to its row.
    """
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(verifier, dtype=torch.float32).eval()
    ends, weights = load_verifier_weights(verifier), model_weights(SpeculatorModel.from_pretrained(head))
    config = read_json(verifier / "config.json")
    found = []
    for row in rows:
        tokens = torch.tensor(row["tokens"])
        with torch.inference_mode():
            last = model.model(tokens[None]).last_hidden_state[0]  # [T, H], after the final norm
        guesses = []
        for place in range(len(tokens) - 1):
            states, read, said = last[: place + 1], tokens[1 : place + 2], []
            for _ in range(steps):
                out = mtp_states(weights, EXTRACTED, config, states, ends.embedding[read].float())  # [t, H]
                said.append(int((out[-1] @ ends.head.float().T).argmax()))
                states, read = torch.cat([states, out[-1:]]), torch.cat([read, torch.tensor(said[-1:])])
            guesses.append(said)
        found.append(guesses)
    return found
