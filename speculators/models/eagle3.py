"""The EAGLE-3 draft: a small decoder that continues a verifier's residual stream.

This is the reading copy and the oracle: plain torch, every score written out.  The fast way to
train it (``models.unroll``) must equal it in loss and gradient, and vLLM
(``model_executor/models/llama_eagle3.py``) must equal it in serving.  Architecture: Li et al.,
"EAGLE-3" (arXiv 2503.01840).

The parameter names are the tensor names of a checkpoint, so ``state_dict()`` is what is stored.
Embedding and head rows belong to the verifier, are frozen, and are therefore passed in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from speculators.checkpoint.eagle3 import Eagle3Config
from speculators.checkpoint.shape import DraftConfig
from speculators.models.rope import Rope, turn
from speculators.models.unroll import FULL_PRECISION, Plan, Precision, Unroll

INIT_STD = 0.02  # the customary deviation of freshly initialised Llama matrices

Span = tuple[int, int]  # first row and end row of one document in a packed sequence
KeysValues = tuple[torch.Tensor, torch.Tensor]  # keys and values of one step, each [T, Hkv, D]
LayerCache = list[KeysValues]  # one entry a drafting step


def attend(queries: torch.Tensor, cache: LayerCache, window: int | None = None) -> torch.Tensor:
    """Attention of one document's rows at the newest drafting step.

    ``queries`` [T, Hkv, G, D] (G query heads share a key head); ``cache`` holds this document's
    keys and values of every step so far.  Row t sees rows 0..t of step 0, whose states came from
    the verifier, and of every later step only *itself*: when serving drafts from row t, its cache
    holds the verifier's rows 0..t and then its own drafted tokens, never another row's drafts.
    A sliding ``window`` counts tokens of that cache: row t drafts from position t + step, so of
    step 0 it sees the last ``window - step`` rows.  Returns [T, Hkv, G, D].
    """
    rows, step = queries.shape[0], len(cache) - 1
    queries = queries * queries.shape[-1] ** -0.5
    keys, values = cache[0]  # [T, Hkv, D]
    past = torch.einsum("tkgd,skd->kgts", queries, keys)  # [Hkv, G, T, T]
    hidden = torch.ones(rows, rows, dtype=torch.bool, device=queries.device).triu(1)  # [T, T]
    if window is not None:
        hidden = hidden | ~hidden.new_ones(rows, rows).triu(step - window + 1)
    past = past.masked_fill(hidden, -torch.inf)
    own = [torch.einsum("tkgd,tkd->kgt", queries, key)[..., None] for key, _ in cache[1:]]  # [Hkv, G, T, 1]
    weights = torch.cat([past, *own], dim=-1).softmax(dim=-1)  # [Hkv, G, T, T + steps - 1]
    mixed = torch.einsum("kgts,skd->tkgd", weights[..., :rows], values)  # [T, Hkv, G, D]
    for later, (_, own_values) in enumerate(cache[1:]):
        weight = weights[..., rows + later].permute(2, 0, 1)[..., None]  # [T, Hkv, G, 1]
        mixed = mixed + weight * own_values[:, :, None]  # [T, Hkv, G, D]
    return mixed


def rms_norm(config: DraftConfig, size: int) -> nn.RMSNorm:
    """x / rms(x) * weight over the last ``size`` features."""
    return nn.RMSNorm(size, eps=config.rms_norm_eps)


class Attention(nn.Module):
    """Grouped-query attention; layer 0 reads embedding and state side by side (twice the width)."""

    def __init__(self, config: DraftConfig, input_size: int) -> None:
        super().__init__()
        self.config = config
        query_size = config.num_attention_heads * config.head_dim
        key_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(input_size, query_size, bias=False)
        self.k_proj = nn.Linear(input_size, key_size, bias=False)
        self.v_proj = nn.Linear(input_size, key_size, bias=False)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=False)
        self.rope = Rope.of(config.rope_parameters, config.head_dim)

    def forward(
        self, x: torch.Tensor, positions: torch.Tensor, cache: LayerCache, documents: Sequence[Span]
    ) -> torch.Tensor:
        config, rows = self.config, x.shape[0]
        heads, dim = config.num_key_value_heads, config.head_dim
        angles = self.rope.tables(positions, x.dtype)  # [T, 1, D/2]
        queries = turn(self.q_proj(x).view(rows, -1, dim), *angles)  # [T, Hq, D]
        keys = turn(self.k_proj(x).view(rows, heads, dim), *angles)  # [T, Hkv, D]
        values = self.v_proj(x).view(rows, heads, dim)  # [T, Hkv, D]
        cache.append((keys, values))
        queries = queries.view(rows, heads, -1, dim)  # [T, Hkv, G, D]: vLLM's order, query head = k * G + g
        mixed = [
            attend(
                queries[start:end], [(k[start:end], v[start:end]) for k, v in cache], config.sliding_window
            )
            for start, end in documents
        ]
        return self.o_proj(torch.cat(mixed).reshape(rows, -1))  # [T, H]


class MLP(nn.Module):
    """Llama's gated feed-forward block."""

    def __init__(self, config: DraftConfig) -> None:
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
        self.residual_is_normed = self.reads_embedding and config.norm_before_residual
        if self.reads_embedding:
            self.hidden_norm = rms_norm(config, config.hidden_size)
        self.input_layernorm = rms_norm(config, config.hidden_size)
        self.self_attn = Attention(config, config.hidden_size * (2 if self.reads_embedding else 1))
        self.post_attention_layernorm = rms_norm(config, config.hidden_size)
        self.mlp = MLP(config)

    @property
    def state_norm(self) -> nn.RMSNorm:
        """The norm of the residual stream in front of attention."""
        return self.hidden_norm if self.reads_embedding else self.input_layernorm

    def forward(
        self,
        hidden: torch.Tensor,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        cache: LayerCache,
        documents: Sequence[Span],
    ) -> torch.Tensor:
        x = state = self.state_norm(hidden)  # [T, H]
        if self.reads_embedding:
            x = torch.cat([self.input_layernorm(embeddings), state], dim=-1)  # [T, 2H]
        residual = state if self.residual_is_normed else hidden  # [T, H]
        residual = residual + self.self_attn(x, positions, cache, documents)  # [T, H]
        return residual + self.mlp(self.post_attention_layernorm(residual))  # [T, H]


class Eagle3Draft(nn.Module):
    """``combine`` the verifier's states once, then ``step`` as many tokens ahead as wanted.

    ``dense`` does so for every row of a packed sequence; ``forward`` does the same, fast.
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

    def dense(
        self,
        states: torch.Tensor,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        documents: Sequence[Span],
    ) -> list[torch.Tensor]:
        """All K steps for every row: the oracle of ``forward``.

        ``states`` [T, A, H] of the verifier, ``embeddings`` [T + K - 1, H] (row t reads t + k at step
        k), ``positions`` [T] of step 0.  Returns the normed state of each step, K x [T, H].
        """
        rows = len(positions)
        hidden, cache, normed = self.combine(states.flatten(1)), self.new_cache(), []
        for step in range(len(embeddings) - rows + 1):
            read = embeddings[step : step + rows]  # [T, H]
            hidden, said = self.step(hidden, read, positions + step, cache, documents)
            normed.append(said)
        return normed

    def forward(
        self,
        states: torch.Tensor,
        embeddings: torch.Tensor,
        plan: Plan,
        precision: Precision = FULL_PRECISION,
    ) -> list[torch.Tensor]:
        """What ``dense`` computes, at the rows ``plan`` asks for only: K x [N, H]."""
        return Unroll(self, plan, precision).run(states, embeddings)
