"""A plain forward of native multi-token-prediction heads, as Qwen3-Next and Qwen3.5 have them.

Under native names and under the format's, experts apart or side by side: so that taking a head out of its
verifier can be proved.  transformers: ``models/qwen3_next/modeling_qwen3_next.py`` for the layer; vLLM:
``model_executor/models/qwen3_next_mtp.py`` for what lies around it.  Everything is float32 and dense.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from speculators.checkpoint.rope import rope_parameters
from speculators.convert.forward import Weights, causal


class Names(NamedTuple):
    """Where a layout keeps the parts of a head, without ``.weight``."""

    joined: str
    norm_embedding: str
    norm_state: str
    layer: str
    norm: str


NATIVE = Names("mtp.fc", "mtp.pre_fc_norm_embedding", "mtp.pre_fc_norm_hidden", "mtp.layers.0", "mtp.norm")
EXTRACTED = Names(
    "mtp_layers.0.input_proj", "mtp_layers.0.token_layernorm", "mtp_layers.0.hidden_layernorm",
    "mtp_layers.0", "mtp_layers.0.final_layernorm",
)  # fmt: skip


class Head(NamedTuple):
    """One head's tensors by their names in one layout, and the verifier's text config."""

    weights: Weights
    names: Names
    config: Mapping[str, Any]

    def weight(self, name: str) -> torch.Tensor:
        found = self.weights(f"{name}.weight")
        if found is None:
            raise KeyError(name)
        return found

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight(f"{self.names.layer}.{name}"))

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """These families store a norm's difference from one."""
        gain = 1 + self.weight(name)
        return functional.rms_norm(x, gain.shape, gain, float(self.config["rms_norm_eps"]))


def mtp_states(
    weights: Weights, names: Names, config: Mapping[str, Any], states: torch.Tensor, embedded: torch.Tensor
) -> torch.Tensor:
    """The verifier's states and the embeddings of the tokens behind them [T, H] -> the head's states [T, H].

    Raises:
        KeyError: a tensor is missing.
    """
    head = Head(weights, names, config)
    both = [head.norm(names.norm_embedding, embedded), head.norm(names.norm_state, states)]
    x = functional.linear(torch.cat(both, dim=-1), head.weight(names.joined))  # [T, H]
    x = x + attended(head, head.norm(f"{names.layer}.input_layernorm", x))
    x = x + fed_forward(head, head.norm(f"{names.layer}.post_attention_layernorm", x))
    return head.norm(names.norm, x)


def attended(head: Head, x: torch.Tensor) -> torch.Tensor:
    """Causal attention with normed queries and keys, RoPE on a part of a head, a gate: [T, H] -> [T, H]."""
    count, dim = int(head.config["num_attention_heads"]), int(head.config["head_dim"])
    projected = head.linear("self_attn.q_proj", x)  # [T, heads * D], or with a gate beside each head
    gated = projected.shape[-1] == 2 * count * dim
    queries = projected.unflatten(-1, (count, -1))  # [T, heads, D or 2D]
    gate = queries[..., dim:].flatten(1) if gated else None  # [T, heads * D]
    keys, values = (head.linear(f"self_attn.{name}_proj", x).unflatten(-1, (-1, dim)) for name in "kv")
    turned = [
        rotated(head.norm(f"{head.names.layer}.self_attn.{name}_norm", part).transpose(0, 1), head.config)
        for name, part in (("q", queries[..., :dim]), ("k", keys))
    ]  # [heads, T, D]
    mask, spread = causal(len(x)), values.transpose(0, 1)
    mixed = functional.scaled_dot_product_attention(
        turned[0][None], turned[1][None], spread[None], attn_mask=mask, enable_gqa=True
    )
    mixed = mixed[0].transpose(0, 1).flatten(1)  # [T, heads * D]
    return head.linear("self_attn.o_proj", mixed if gate is None else mixed * torch.sigmoid(gate))


def rotated(x: torch.Tensor, config: Mapping[str, Any]) -> torch.Tensor:
    """RoPE on the first ``partial_rotary_factor`` of each head's features: [heads, T, D]."""
    rope = rope_parameters(config)
    width = int(x.shape[-1] * float(rope.get("partial_rotary_factor", 1.0)))
    rates = float(rope["rope_theta"]) ** -(torch.arange(0, width, 2).float() / width)  # [width / 2]
    angles = torch.arange(x.shape[1]).float()[:, None] * rates  # [T, width / 2]
    cos, sin = (torch.cat([part, part], dim=-1) for part in (angles.cos(), angles.sin()))
    turning, still = x[..., :width], x[..., width:]
    first, second = turning.chunk(2, dim=-1)
    return torch.cat([turning * cos + torch.cat([-second, first], dim=-1) * sin, still], dim=-1)


def fed_forward(head: Head, x: torch.Tensor) -> torch.Tensor:
    """The dense layer, or the mixture of its best experts and the shared one: [T, H] -> [T, H]."""
    if head.weights(f"{head.names.layer}.mlp.gate.weight") is None:
        return expert(x, *parts_of(head, f"{head.names.layer}.mlp"))
    scores = head.linear("mlp.gate", x).softmax(-1)  # [T, E]
    best, chosen = scores.topk(int(head.config["num_experts_per_tok"]), dim=-1)
    if head.config.get("norm_topk_prob", True):
        best = best / best.sum(-1, keepdim=True)
    share = torch.zeros_like(scores).scatter(1, chosen, best)  # [T, E]
    outputs = [expert(x, *parts) for parts in experts(head, scores.shape[1])]
    mixed = (torch.stack(outputs, dim=1) * share[..., None]).sum(1)
    shared = f"{head.names.layer}.mlp.shared_expert"
    if head.weights(f"{shared}.gate_proj.weight") is None:
        return mixed
    own = expert(x, *parts_of(head, shared))
    return mixed + torch.sigmoid(head.linear("mlp.shared_expert_gate", x)) * own


Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # gate and up [I, H], down [H, I]


def parts_of(head: Head, module: str) -> Parts:
    gate, up, down = (head.weight(f"{module}.{part}_proj") for part in ("gate", "up", "down"))
    return gate, up, down


def experts(head: Head, count: int) -> list[Parts]:
    """Gate, up and down of each expert, apart or cut from where they lie side by side."""
    module = f"{head.names.layer}.mlp.experts"
    fused = head.weights(f"{module}.gate_up_proj")  # [E, 2I, H]
    if fused is None:
        return [parts_of(head, f"{module}.{index}") for index in range(count)]
    down = head.weights(f"{module}.down_proj")  # [E, H, I]
    if down is None:
        raise KeyError(f"{module}.down_proj")
    halves = [both.chunk(2) for both in fused]
    return [(gate, up, out) for (gate, up), out in zip(halves, down)]


def expert(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    return functional.linear(functional.silu(x @ gate.T) * (x @ up.T), down)
