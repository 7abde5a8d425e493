"""The EAGLE-3 draft: a small decoder that continues a verifier's residual stream.

This is the reading copy and the oracle: plain torch, every score written out.  A faster trainer
must equal it in loss and gradient, and vLLM (``model_executor/models/llama_eagle3.py``) must equal
it in serving.  Architecture: Li et al., "EAGLE-3" (arXiv 2503.01840).

The parameter names are the tensor names of a checkpoint, so ``state_dict()`` is what is stored.
Embedding and head rows belong to the verifier, are frozen, and are therefore passed in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from speculators.checkpoint.shape import Eagle3Config

INIT_STD = 0.02  # the customary deviation of freshly initialised Llama matrices

Span = tuple[int, int]  # first row and end row of one document in a packed sequence
KeysValues = tuple[torch.Tensor, torch.Tensor]  # keys and values of one step, each [T, Hkv, D]
LayerCache = list[KeysValues]  # one entry a drafting step


def rotate(x: torch.Tensor, positions: torch.Tensor, theta: float) -> torch.Tensor:
    """RoPE in the "neox" pairing (i, i + D/2) of Llama and vLLM: x [T, heads, D], positions [T]."""
    half = x.shape[-1] // 2
    dtype = torch.promote_types(x.dtype, torch.float32)
    exponents = torch.arange(half, dtype=dtype, device=x.device) / half  # [D/2]
    angles = positions.to(dtype)[:, None] * theta**-exponents  # [T, D/2]
    cos, sin = (part[:, None].to(x.dtype) for part in (angles.cos(), angles.sin()))  # [T, 1, D/2]
    first, second = x[..., :half], x[..., half:]  # [T, heads, D/2]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)  # [T, heads, D]


def attend(queries: torch.Tensor, cache: LayerCache) -> torch.Tensor:
    """Attention of one document's rows at the newest drafting step.

    ``queries`` [T, Hkv, G, D] (G query heads share a key head); ``cache`` holds this document's
    keys and values of every step so far.  Row t sees rows 0..t of step 0, whose states came from
    the verifier, and of every later step only *itself*: when serving drafts from row t, its cache
    holds the verifier's rows 0..t and then its own drafted tokens, never another row's drafts.
    Returns [T, Hkv, G, D].
    """
    rows = queries.shape[0]
    queries = queries * queries.shape[-1] ** -0.5
    keys, values = cache[0]  # [T, Hkv, D]
    past = torch.einsum("tkgd,skd->kgts", queries, keys)  # [Hkv, G, T, T]
    future = torch.ones(rows, rows, dtype=torch.bool, device=queries.device).triu(1)  # [T, T]
    past = past.masked_fill(future, -torch.inf)
    own = [torch.einsum("tkgd,tkd->kgt", queries, key)[..., None] for key, _ in cache[1:]]  # [Hkv, G, T, 1]
    weights = torch.cat([past, *own], dim=-1).softmax(dim=-1)  # [Hkv, G, T, T + steps - 1]
    mixed = torch.einsum("kgts,skd->tkgd", weights[..., :rows], values)  # [T, Hkv, G, D]
    for step, (_, own_values) in enumerate(cache[1:]):
        weight = weights[..., rows + step].permute(2, 0, 1)[..., None]  # [T, Hkv, G, 1]
        mixed = mixed + weight * own_values[:, :, None]  # [T, Hkv, G, D]
    return mixed


def rms_norm(config: Eagle3Config, size: int) -> nn.RMSNorm:
    """x / rms(x) * weight over the last ``size`` features."""
    return nn.RMSNorm(size, eps=config.rms_norm_eps)


class Attention(nn.Module):
    """Grouped-query attention; layer 0 reads embedding and state side by side (twice the width)."""

    def __init__(self, config: Eagle3Config, input_size: int) -> None:
        super().__init__()
        self.config = config
        query_size = config.num_attention_heads * config.head_dim
        key_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(input_size, query_size, bias=False)
        self.k_proj = nn.Linear(input_size, key_size, bias=False)
        self.v_proj = nn.Linear(input_size, key_size, bias=False)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=False)

    def forward(
        self, x: torch.Tensor, positions: torch.Tensor, cache: LayerCache, documents: Sequence[Span]
    ) -> torch.Tensor:
        config, rows = self.config, x.shape[0]
        heads, dim = config.num_key_value_heads, config.head_dim
        queries = rotate(self.q_proj(x).view(rows, -1, dim), positions, config.rope_theta)  # [T, Hq, D]
        keys = rotate(self.k_proj(x).view(rows, heads, dim), positions, config.rope_theta)  # [T, Hkv, D]
        values = self.v_proj(x).view(rows, heads, dim)  # [T, Hkv, D]
        cache.append((keys, values))
        queries = queries.view(rows, heads, -1, dim)  # [T, Hkv, G, D]: vLLM's order, query head = k * G + g
        mixed = [
            attend(queries[start:end], [(k[start:end], v[start:end]) for k, v in cache])
            for start, end in documents
        ]
        return self.o_proj(torch.cat(mixed).reshape(rows, -1))  # [T, H]


class MLP(nn.Module):
    """Llama's gated feed-forward block."""

    def __init__(self, config: Eagle3Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))  # [T, H]


class DecoderLayer(nn.Module):
    """A pre-norm Llama layer; the first one also reads the token embedding."""

    def __init__(self, config: Eagle3Config, index: int) -> None:
        super().__init__()
        self.reads_embedding = index == 0
        self.norm_before_residual = config.norm_before_residual
        if self.reads_embedding:
            self.hidden_norm = rms_norm(config, config.hidden_size)
        self.input_layernorm = rms_norm(config, config.hidden_size)
        self.self_attn = Attention(config, config.hidden_size * (2 if self.reads_embedding else 1))
        self.post_attention_layernorm = rms_norm(config, config.hidden_size)
        self.mlp = MLP(config)

    def forward(
        self,
        hidden: torch.Tensor,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        cache: LayerCache,
        documents: Sequence[Span],
    ) -> torch.Tensor:
        if self.reads_embedding:
            state = self.hidden_norm(hidden)  # [T, H]
            residual = state if self.norm_before_residual else hidden  # [T, H]
            x = torch.cat([self.input_layernorm(embeddings), state], dim=-1)  # [T, 2H]
        else:
            residual, x = hidden, self.input_layernorm(hidden)  # [T, H]
        residual = residual + self.self_attn(x, positions, cache, documents)  # [T, H]
        return residual + self.mlp(self.post_attention_layernorm(residual))  # [T, H]


class Eagle3Draft(nn.Module):
    """``combine`` the verifier's states once, then ``step`` as many tokens ahead as wanted.

    ``forward`` does both for all steps of a packed sequence.
    """

    def __init__(self, config: Eagle3Config) -> None:
        super().__init__()
        self.config = config
        fused = len(config.aux_layers) * config.hidden_size
        if config.norm_before_fc:
            self.input_norm = rms_norm(config, fused)
        if config.fc_norm:
            self.fc_norm = nn.ModuleList(rms_norm(config, config.hidden_size) for _ in config.aux_layers)
        self.fc = nn.Linear(fused, config.hidden_size, bias=False)
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.layers))
        self.norm = rms_norm(config, config.hidden_size)
        for matrix in self.parameters():
            if matrix.dim() == 2:
                nn.init.normal_(matrix, std=INIT_STD)

    def new_cache(self) -> list[LayerCache]:
        """An empty key-value cache: for each layer, no step yet."""
        return [[] for _ in self.layers]

    def combine(self, aux: torch.Tensor) -> torch.Tensor:
        """Verifier states side by side, ascending layers [T, A*H] -> the draft's state [T, H]."""
        if self.config.norm_before_fc:
            aux = self.input_norm(aux)  # [T, A*H]
        if self.config.fc_norm:
            chunks = aux.chunk(len(self.config.aux_layers), dim=-1)  # A x [T, H]
            aux = torch.cat([norm(chunk) for norm, chunk in zip(self.fc_norm, chunks)], dim=-1)  # [T, A*H]
        return self.fc(aux)  # [T, H]

    def step(
        self,
        hidden: torch.Tensor,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        cache: list[LayerCache],
        documents: Sequence[Span],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One drafting step of every row: hidden, embeddings [T, H], positions [T].

        ``cache`` grows by this step's keys and values.  ``documents`` are the packed sequence's
        row spans in order; rows attend within their own only.
        Returns the state for the next step and the normed state for the head, each [T, H].
        """
        for layer, layer_cache in zip(self.layers, cache):
            hidden = layer(hidden, embeddings, positions, layer_cache, documents)  # [T, H]
        normed = self.norm(hidden)  # [T, H]
        return (normed if self.config.norm_output else hidden), normed

    def forward(
        self,
        aux: torch.Tensor,
        embeddings: Sequence[torch.Tensor],
        positions: torch.Tensor,
        documents: Sequence[Span],
    ) -> list[torch.Tensor]:
        """All drafting steps: aux [T, A*H], embeddings K x [T, H], positions [T] of step 0.

        Returns the normed state of each step, K x [T, H], as the head reads it.
        """
        hidden, cache, normed = self.combine(aux), self.new_cache(), []
        for step, embedding in enumerate(embeddings):
            hidden, said = self.step(hidden, embedding, positions + step, cache, documents)
            normed.append(said)
        return normed
