"""Which tensors a checkpoint must hold, and of what shape: what the architectures have in common.

vLLM does not notice a missing tensor: the parameter stays uninitialised memory and acceptance is
near zero (its strict tracking is off for draft classes).  So the list is written here, derived from
``config.json`` exactly as vLLM's model classes build their modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Shape = tuple[int, ...]

EMBED_TOKENS = "embed_tokens.weight"
LM_HEAD = "lm_head.weight"


class Layout(NamedTuple):
    """Tensor names and shapes: ``required`` must be there, ``optional`` may be, no other may."""

    required: dict[str, Shape]
    optional: dict[str, Shape]


def is_reduced(document: Mapping[str, Any]) -> bool:
    """Whether the draft speaks fewer tokens than the verifier."""
    vocab_size = document["transformer_layer_config"]["vocab_size"]
    return bool((document.get("draft_vocab_size") or vocab_size) != vocab_size)


def target_width(document: Mapping[str, Any]) -> int:
    """The width of the verifier's states."""
    width: int = document.get("target_hidden_size") or document["transformer_layer_config"]["hidden_size"]
    return width


def shared_ends(document: Mapping[str, Any]) -> Layout:
    """Embedding, head and vocabulary maps, as vLLM's EAGLE-3 and DFlash classes treat them.

    Absent, embedding and head are shared from the verifier: right only for equal widths and, for the
    head, a full vocabulary.
    """
    layer = document["transformer_layer_config"]
    hidden, vocab = layer["hidden_size"], layer["vocab_size"]
    draft_vocab = document.get("draft_vocab_size") or vocab
    same_width, reduced = target_width(document) == hidden, is_reduced(document)
    ends = Layout({}, {})
    (ends.optional if same_width else ends.required)[EMBED_TOKENS] = (vocab, hidden)
    (ends.optional if same_width and not reduced else ends.required)[LM_HEAD] = (draft_vocab, hidden)
    if reduced:
        ends.required["d2t"] = (draft_vocab,)
        ends.optional["t2d"] = (vocab,)
    return ends


def layer_shapes(layer: Mapping[str, Any], input_size: int) -> dict[str, Shape]:
    """One decoder layer's tensors, names relative to the layer; ``input_size`` is what q, k, v read.

    Biases are those that vLLM's layer of the family has (``model_executor/models/{llama,qwen3}.py``): Llama's
    o_proj has one wherever q, k and v have.
    """
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
    is_llama = layer.get("model_type", "llama") == "llama"
    if layer.get("attention_bias"):
        shapes |= {f"self_attn.{name}_proj.bias": (size,) for name, size in zip("qkv", (queries, keys, keys))}
        shapes |= {"self_attn.o_proj.bias": (hidden,)} if is_llama else {}
    if layer.get("mlp_bias") and is_llama:
        sizes = {"gate": inner, "up": inner, "down": hidden}
        shapes |= {f"mlp.{name}_proj.bias": (size,) for name, size in sizes.items()}
    if layer.get("model_type") == "qwen3":
        shapes |= {"self_attn.q_norm.weight": (dim,), "self_attn.k_norm.weight": (dim,)}
    return shapes


def within(index: int, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shapes of layer ``index`` under their full names."""
    return {f"layers.{index}.{name}": shape for name, shape in shapes.items()}


def canonical_name(name: str) -> str:
    """vLLM's alias for the first layer, as other trainers write it, under the format's own name."""
    return name.replace("midlayer.", "layers.0.")
