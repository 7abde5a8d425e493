"""Plain forwards of other trainers' drafts, to compare a conversion with what it was made from.

Written from the layouts' own descriptions, with tensors under their source names and RoPE by
transformers from the source's config as it stands: nothing here goes through the code that converts.
Everything is float32 and dense; a few rows are enough to tell two drafts apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

Weights = Callable[[str], "torch.Tensor | None"]  # tensor by name, in float32; None where there is none


class PlainLayer:
    """One Llama- or Qwen3-like decoder layer under any prefix."""

    def __init__(self, weights: Weights, prefix: str, config: Mapping[str, Any]) -> None:
        self.weights, self.prefix = weights, prefix
        self.heads = int(config["num_attention_heads"])
        self.key_heads = int(config.get("num_key_value_heads") or self.heads)
        self.dim = int(config.get("head_dim") or config["hidden_size"] // self.heads)
        self.eps = float(config["rms_norm_eps"])
        self.rotary = rotary(config)
        self.keys: list[torch.Tensor] = []  # of former steps, as are values: [heads, T, D] each
        self.values: list[torch.Tensor] = []

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        weight = self.weights(f"{self.prefix}.{name}.weight")
        assert weight is not None, name
        return functional.linear(x, weight, self.weights(f"{self.prefix}.{name}.bias"))

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """RMSNorm, or nothing where the layout has none."""
        weight = self.weights(f"{self.prefix}.{name}.weight")
        return x if weight is None else functional.rms_norm(x, weight.shape, weight, self.eps)

    def heads_of(self, name: str, x: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
        """Queries, keys (turned, where ``positions`` are given) or values: [T, ..] -> [heads, T, D]."""
        split = self.linear(f"self_attn.{name}_proj", x).unflatten(-1, (-1, self.dim)).transpose(0, 1)
        if positions is None:
            return split
        split = self.norm(f"self_attn.{name}_norm", split)
        cos, sin = self.rotary(split[None], positions[None])  # [1, T, D]
        first, second = split.chunk(2, dim=-1)
        return split * cos[0] + torch.cat([-second, first], dim=-1) * sin[0]

    def attend(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """queries [Hq, T, D], keys and values [Hkv, S, D], mask [T, S] -> [T, H]."""
        mixed = functional.scaled_dot_product_attention(
            queries[None], keys[None], values[None], attn_mask=mask, enable_gqa=True
        )[0]
        return self.linear("self_attn.o_proj", mixed.transpose(0, 1).flatten(1))

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        gate = functional.silu(self.linear("mlp.gate_proj", x))
        return self.linear("mlp.down_proj", gate * self.linear("mlp.up_proj", x))

    def step(
        self, x: torch.Tensor, residual: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """The whole layer, of normed inputs x and the state they join [T, H], behind its former steps."""
        self.keys.append(self.heads_of("k", x, positions))
        self.values.append(self.heads_of("v", x, None))
        queries = self.heads_of("q", x, positions)
        after = residual + self.attend(queries, torch.cat(self.keys, 1), torch.cat(self.values, 1), mask)
        return after + self.mlp(self.norm("post_attention_layernorm", after))


def rotary(config: Mapping[str, Any]) -> Any:
    """transformers' own cosines and sines for a Llama-like config as it stands."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    keys = ("hidden_size", "num_attention_heads", "head_dim", "max_position_embeddings", "rope_theta",
            "rope_scaling", "rope_parameters", "partial_rotary_factor",
            "original_max_position_embeddings")  # fmt: skip
    known = {key: config[key] for key in keys if config.get(key) is not None}
    for key in ("rope_scaling", "rope_parameters"):
        block = known.get(key, {})
        kinds = [one for one in block.values() if isinstance(one, Mapping)]
        if kinds:  # one for each kind of attention layer; a draft attends to everything
            block = known[key] = block.get("full_attention") or kinds[0]
            known.pop("original_max_position_embeddings", None)  # read from beside one block only
        if "su" in (block.get("type"), block.get("rope_type")):
            block = known[key] = {**block, "rope_type": "longrope"}
        if "mrope" in (block.get("type"), block.get("rope_type")):  # text alone: all sections turn alike
            known[key] = {name: value for name, value in block.items() if name != "type"} | {
                "rope_type": "default"
            }
    written = LlamaConfig(**known)
    written.standardize_rope_params()  # once more, as vLLM does: now with the length beside the block
    return LlamaRotaryEmbedding(written)


def causal(rows: int) -> torch.Tensor:
    return torch.ones(rows, rows, dtype=torch.bool).tril()


def eagle3_logits(
    weights: Weights,
    first: str,
    config: Mapping[str, Any],
    flags: Mapping[str, bool],
    aux: torch.Tensor,
    embeddings: tuple[torch.Tensor, ...],
) -> list[torch.Tensor]:
    """EAGLE-3 whose first layer is named ``first``: aux [T, A*Ht], embeddings of each step [T, H] -> each
    [T, Vd].

    Step 0 sees the rows before it; a later one those and its own former steps.
    """
    others = [f"layers.{index}" for index in range(1, int(config.get("num_hidden_layers") or 1))]
    layer, *above = (PlainLayer(weights, name, config) for name in (first, *others))

    def rms(x: torch.Tensor, name: str) -> torch.Tensor:
        weight = weights(name)
        return x if weight is None else functional.rms_norm(x, weight.shape, weight, layer.eps)

    if flags["norm_before_fc"]:
        aux = rms(aux, "input_norm.weight")
    if flags["fc_norm"]:
        chunks = aux.chunk(sum(weights(f"fc_norm.{index}.weight") is not None for index in range(64)), dim=-1)
        aux = torch.cat([rms(chunk, f"fc_norm.{index}.weight") for index, chunk in enumerate(chunks)], dim=-1)
    fused, head = weights("fc.weight"), weights("lm_head.weight")
    assert fused is not None
    assert head is not None
    state = aux @ fused.T  # [T, H]
    rows = len(state)
    logits = []
    for step, embedded in enumerate(embeddings):
        positions = torch.arange(rows) + step
        mask = torch.cat([causal(rows), *[torch.eye(rows, dtype=torch.bool)] * step], dim=-1)
        normed = layer.norm("hidden_norm", state)
        x = torch.cat([layer.norm("input_layernorm", embedded), normed], dim=-1)  # [T, 2H]
        state = layer.step(x, normed if flags["norm_before_residual"] else state, positions, mask)
        for one in above:
            state = one.step(one.norm("input_layernorm", state), state, positions, mask)
        out = rms(state, "norm.weight")
        logits.append(out @ head.T)
        state = out if flags["norm_output"] else state
    return logits


def eagle_states(
    weights: Weights, config: Mapping[str, Any], states: torch.Tensor, embedded: torch.Tensor
) -> torch.Tensor:
    """EAGLE: the verifier's normed states and embeddings [T, H] -> the draft's states [T, H]."""
    fused = weights("fc.weight")
    assert fused is not None
    x = torch.cat([embedded, states], dim=-1) @ fused.T
    for index in range(int(config.get("num_hidden_layers") or 1)):
        layer = PlainLayer(weights, f"layers.{index}", config)
        rows = torch.arange(len(x))
        normed = layer.norm("input_layernorm", x)
        queries, keys = (layer.heads_of(name, normed, rows) for name in "qk")
        x = x + layer.attend(queries, keys, layer.heads_of("v", normed, None), causal(len(x)))
        x = x + layer.mlp(layer.norm("post_attention_layernorm", x))
    return x


def dflash_states(
    weights: Weights, config: Mapping[str, Any], context: torch.Tensor, block: torch.Tensor
) -> torch.Tensor:
    """DFlash: verifier states side by side [C, A*Ht] and embeddings of a block [B, H] -> states [B, H].

    Every token of the block sees the whole context and the whole block.
    """
    fused, hidden_norm, norm = (weights(f"{name}.weight") for name in ("fc", "hidden_norm", "norm"))
    assert fused is not None
    assert hidden_norm is not None
    assert norm is not None
    eps = float(config["rms_norm_eps"])
    seen = functional.rms_norm(context @ fused.T, hidden_norm.shape, hidden_norm, eps)  # [C, H]
    x, places = block, torch.arange(len(context) + len(block))
    for index in range(int(config["num_hidden_layers"])):
        layer = PlainLayer(weights, f"layers.{index}", config)
        normed = layer.norm("input_layernorm", x)
        both = torch.cat([seen, normed])  # [C + B, H]
        queries = layer.heads_of("q", normed, places[len(context) :])
        everything = torch.ones(len(block), len(both), dtype=torch.bool)
        x = x + layer.attend(
            queries, layer.heads_of("k", both, places), layer.heads_of("v", both, None), everything
        )
        x = x + layer.mlp(layer.norm("post_attention_layernorm", x))
    return functional.rms_norm(x, norm.shape, norm, eps)
