"""Drafts as an engine runs them, one request and one row at a time: what our models must equal.

Written after vLLM's modules (fused residual and norm, states fed back, a growing key-value cache) and
from the stored tensors alone; shares no code with the models under test.
"""

from __future__ import annotations

import math

import torch

from speculators.checkpoint.shape import DraftConfig

Row = tuple[torch.Tensor, torch.Tensor]  # keys and values of one position, each [Hkv, D]


class ServedLayers:
    """The pieces of a Llama layer, by stored name, and each layer's cache of rows."""

    def __init__(self, config: DraftConfig, tensors: dict[str, torch.Tensor]) -> None:
        self.config, self.tensors = config, tensors
        self.cache: list[list[Row]] = [[] for _ in range(config.layers)]

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        mean_square = (x @ x) / len(x)
        return x / torch.sqrt(mean_square + self.config.rms_norm_eps) * self.tensors[f"{name}.weight"]

    def rope(self, heads: torch.Tensor, position: int) -> torch.Tensor:
        half = self.config.head_dim // 2
        angles = torch.tensor([position / self.config.rope_theta ** (i / half) for i in range(half)])
        turned = torch.complex(heads[:, :half], heads[:, half:]) * torch.polar(torch.ones(half), angles)
        return torch.cat([turned.real, turned.imag], dim=-1)

    def project(self, layer: int, part: str, x: torch.Tensor) -> torch.Tensor:
        """The heads [., D] of q, k or v; normed where the layer has norms of heads."""
        name = f"layers.{layer}.self_attn.{part}"
        heads = (self.tensors[f"{name}_proj.weight"] @ x).view(-1, self.config.head_dim)
        normed = f"{name}_norm.weight" in self.tensors
        return torch.stack([self.norm(f"{name}_norm", head) for head in heads]) if normed else heads

    def row(self, layer: int, x: torch.Tensor, position: int) -> Row:
        return self.rope(self.project(layer, "k", x), position), self.project(layer, "v", x)

    def attention(self, layer: int, x: torch.Tensor, position: int, rows: list[Row]) -> torch.Tensor:
        config = self.config
        q = self.rope(self.project(layer, "q", x), position)
        mixed = []
        for head in range(config.num_attention_heads):
            shared = head // (config.num_attention_heads // config.num_key_value_heads)
            scores = torch.stack([q[head] @ key[shared] / math.sqrt(config.head_dim) for key, _ in rows])
            values = torch.stack([value[shared] for _, value in rows])
            mixed.append(scores.softmax(0) @ values)
        return self.tensors[f"layers.{layer}.self_attn.o_proj.weight"] @ torch.cat(mixed)

    def attend(self, layer: int, x: torch.Tensor, position: int) -> torch.Tensor:
        """Of the newest row over all rows so far, or as many as its window holds."""
        self.cache[layer].append(self.row(layer, x, position))
        seen = self.cache[layer][-(self.config.sliding_window or len(self.cache[layer])) :]
        return self.attention(layer, x, position, seen)

    def mlp(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        gate, up, down = (
            self.tensors[f"layers.{layer}.mlp.{name}_proj.weight"] for name in ("gate", "up", "down")
        )
        gated = gate @ x
        return down @ (gated / (1 + torch.exp(-gated)) * (up @ x))


class ServedDraft(ServedLayers):
    """EAGLE-3's and P-EAGLE's layers."""

    def combine(self, aux: torch.Tensor) -> torch.Tensor:
        if self.config.norm_before_fc:
            aux = self.norm("input_norm", aux)
        if self.config.fc_norm:
            parts = aux.split(self.config.hidden_size)
            aux = torch.cat([self.norm(f"fc_norm.{index}", part) for index, part in enumerate(parts)])
        return self.tensors["fc.weight"] @ aux

    def feed(
        self, hidden: torch.Tensor, embedding: torch.Tensor, position: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        residual = torch.zeros_like(hidden)
        for layer in range(self.config.layers):
            name = f"layers.{layer}"
            if layer == 0:
                residual = hidden
                normed = self.norm(f"{name}.hidden_norm", hidden)
                if self.config.norm_before_residual:
                    residual = normed
                hidden = torch.cat([self.norm(f"{name}.input_layernorm", embedding), normed])
            else:
                residual = hidden + residual
                hidden = self.norm(f"{name}.input_layernorm", residual)
            residual = residual + self.attend(layer, hidden, position)
            hidden = self.mlp(layer, self.norm(f"{name}.post_attention_layernorm", residual))
        residual = hidden + residual
        normed = self.norm("norm", residual)
        return (normed if self.config.norm_output else residual), normed


class ServedEagle(ServedLayers):
    """EAGLE's layers: no norm before the first, none behind the last."""

    def feed(self, hidden: torch.Tensor, embedding: torch.Tensor, position: int) -> torch.Tensor:
        hidden = self.tensors["fc.weight"] @ torch.cat([embedding, hidden])
        for layer in range(self.config.layers):
            name = f"layers.{layer}"
            read = self.norm(f"{name}.input_layernorm", hidden) if layer else hidden
            hidden = hidden + self.attend(layer, read, position)
            hidden = hidden + self.mlp(layer, self.norm(f"{name}.post_attention_layernorm", hidden))
        return hidden


class ServedBlock(ServedLayers):
    """DFlash's layers: rows of context first, then one block that sees all of them and itself."""

    def read(self, aux: torch.Tensor, position: int) -> None:
        context = self.norm("hidden_norm", self.tensors["fc.weight"] @ aux)
        for layer, rows in enumerate(self.cache):
            rows.append(self.row(layer, context, position))

    def draft(self, block: list[torch.Tensor], position: int) -> list[torch.Tensor]:
        """The normed state of every row of a block that begins at ``position``."""
        states = block
        for layer in range(self.config.layers):
            name = f"layers.{layer}"
            read = [self.norm(f"{name}.input_layernorm", state) for state in states]
            own = [self.row(layer, x, position + place) for place, x in enumerate(read)]
            attended = [
                state + self.attention(layer, x, position + place, self.cache[layer] + own)
                for place, (state, x) in enumerate(zip(states, read))
            ]
            states = [
                state + self.mlp(layer, self.norm(f"{name}.post_attention_layernorm", state))
                for state in attended
            ]
        return [self.norm("norm", state) for state in states]
