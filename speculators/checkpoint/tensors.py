"""Which tensors an EAGLE-3 checkpoint must hold, and of what shape.

vLLM does not notice a missing tensor: the parameter stays uninitialised memory and acceptance is
near zero (its strict tracking is off for this class).  So the list is written here, derived from
the flags exactly as ``model_executor/models/{llama,qwen3}_eagle3.py`` build their modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """Tensor names and shapes: ``required`` must be there, ``optional`` may be, no other may."""

    required: dict[str, Shape]
    optional: dict[str, Shape]


def is_reduced(document: Mapping[str, Any]) -> bool:
    """Whether the draft speaks fewer tokens than the verifier."""
    vocab_size = document["transformer_layer_config"]["vocab_size"]
    return bool((document.get("draft_vocab_size") or vocab_size) != vocab_size)


def layout(document: Mapping[str, Any]) -> Layout:
    """The tensors that ``config.json`` calls for."""
    layer = document["transformer_layer_config"]
    hidden, vocab = layer["hidden_size"], layer["vocab_size"]
    target_hidden = document.get("target_hidden_size") or hidden
    aux = len(document["eagle_aux_hidden_state_layer_ids"])
    draft_vocab = document.get("draft_vocab_size") or vocab

    required: dict[str, Shape] = {"fc.weight": (hidden, aux * target_hidden), "norm.weight": (hidden,)}
    optional: dict[str, Shape] = {}
    if document.get("norm_before_fc"):
        required["input_norm.weight"] = (aux * target_hidden,)
    if document.get("fc_norm"):
        required |= {f"fc_norm.{index}.weight": (target_hidden,) for index in range(aux)}
    for index in range(layer["num_hidden_layers"]):
        shapes = layer_shapes(layer, 2 * hidden if index == 0 else hidden)
        # vLLM builds hidden_norm in every layer but applies it in the first only.
        (required if index == 0 else optional)[f"layers.{index}.hidden_norm.weight"] = (hidden,)
        required |= {f"layers.{index}.{name}": shape for name, shape in shapes.items()}

    # Absent, embedding and head are shared from the verifier: right only for equal widths and,
    # for the head, a full vocabulary.
    (optional if target_hidden == hidden else required)["embed_tokens.weight"] = (vocab, hidden)
    head_shared = target_hidden == hidden and not is_reduced(document)
    (optional if head_shared else required)["lm_head.weight"] = (draft_vocab, hidden)
    if is_reduced(document):
        required["d2t"] = (draft_vocab,)
        optional["t2d"] = (vocab,)
    return Layout(required, optional)


def layer_shapes(layer: Mapping[str, Any], input_size: int) -> dict[str, Shape]:
    """One decoder layer's tensors, names relative to the layer; ``input_size`` is what q, k, v read."""
    hidden, inner = layer["hidden_size"], layer["intermediate_size"]
    heads = layer["num_attention_heads"]
    dim = layer.get("head_dim") or hidden // heads
    queries, keys = heads * dim, layer.get("num_key_value_heads", heads) * dim
    shapes: dict[str, Shape] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, input_size),
        "self_attn.k_proj.weight": (keys, input_size),
        "self_attn.v_proj.weight": (keys, input_size),
        "self_attn.o_proj.weight": (hidden, queries),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    if layer.get("attention_bias"):
        shapes |= {f"self_attn.{name}_proj.bias": (size,) for name, size in zip("qkv", (queries, keys, keys))}
    if layer.get("model_type") == "qwen3":
        shapes |= {"self_attn.q_norm.weight": (dim,), "self_attn.k_norm.weight": (dim,)}
    return shapes


def canonical_name(name: str) -> str:
    """vLLM's alias for the first layer, as other trainers write it, under the format's own name."""
    return name.replace("midlayer.", "layers.0.")
