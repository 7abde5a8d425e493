"""EAGLE and HASS: a decoder layer that continues the verifier's last states, token by token.

    row t = (normed last state of t, embedding of token t+1, position t) -> the normed last state of t+1

so the draft's output is itself a state that the next step can read, and the verifier's own head makes
a token of it.  vLLM (``model_executor/models/llama_eagle.py``) hands over the states *after* the
verifier's final norm, and the draft has no norm at either end.

Both are one architecture and differ in training.  EAGLE (Li et al., arXiv 2401.15077) practises one
step from the verifier's states.  In serving, later steps read the draft's own states, which it has
never seen: HASS (Zhang et al., arXiv 2408.15766) practises those too, as train-time-test does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from speculators.checkpoint.eagle import EagleConfig
from speculators.models.eagle3 import INIT_STD, MLP, Attention, KeysValues, LayerCache, Span, rms_norm
from speculators.models.unroll import FULL_PRECISION, Precision
from speculators.training.asked import Asked, ask
from speculators.training.chunked import taught_gradients
from speculators.training.objective import Batch
from speculators.training.packing import PackedSequence
from speculators.training.ttt import TrainTimeTest

TOKEN_WEIGHT = 0.1  # of the divergence over tokens against the distance of states, as published


class EagleLayer(nn.Module):
    """A pre-norm Llama layer; the first one reads its input as it is."""

    def __init__(self, config: EagleConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = rms_norm(config, config.hidden_size) if index else nn.Identity()
        self.self_attn = Attention(config, config.hidden_size)
        self.post_attention_layernorm = rms_norm(config, config.hidden_size)
        self.mlp = MLP(config)

    def forward(
        self,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        past: Sequence[KeysValues],
        documents: Sequence[Span],
    ) -> tuple[torch.Tensor, KeysValues]:
        """The layer's output [T, H], and the keys and values that it adds to those of the ``past`` steps."""
        cache: LayerCache = list(past)
        x = self.input_layernorm(hidden)  # [T, H]
        hidden = hidden + self.self_attn(x, positions, cache, documents)  # [T, H]
        return hidden + self.mlp(self.post_attention_layernorm(hidden)), cache[-1]


class EagleDraft(nn.Module):
    """From state and next token to the next state."""

    def __init__(self, config: EagleConfig) -> None:
        super().__init__()
        self.config = config
        self.fc = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.layers = nn.ModuleList(EagleLayer(config, index) for index in range(config.layers))
        for matrix in self.parameters():
            if matrix.dim() == 2:
                nn.init.normal_(matrix, std=INIT_STD)

    def forward(
        self,
        features: torch.Tensor,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        documents: Sequence[Span],
        precision: Precision = FULL_PRECISION,
    ) -> list[torch.Tensor]:
        """All K steps: features [T, H] (the verifier's normed states), embeddings [T + K - 1, H] (row t
        reads t + k at step k), positions [T] of step 0.

        Returns the state that each step makes, K x [T, H]: what the head reads, and the next step.
        """
        caches: list[LayerCache] = [[] for _ in self.layers]
        stream = self.fc.weight.dtype
        rows, hidden, states = len(features), features.to(stream), []
        for step in range(len(embeddings) - rows + 1):
            read = embeddings[step : step + rows]  # [T, H]
            with precision.products(features.device):
                hidden = self.fc(torch.cat([read.to(stream), hidden], dim=-1)).to(stream)  # [T, H]
                for layer, cache in zip(self.layers, caches):
                    hidden, made = precision.run(layer, hidden, positions + step, tuple(cache), documents)
                    cache.append(made)
            states.append(hidden)
        return states


class FeatureRegression(TrainTimeTest):
    """The objective of EAGLE (one step) and HASS (several): be the verifier's next state.

    A row's loss is ``mean_h smooth_l1(state_h - target_h) + 0.1 D(head(target), head(state))``: the
    first makes states that later steps can read, the second says which errors change a token.
    The published loss has the cross-entropy with the verifier's distribution for D.  Forward KL, which
    D is unless the recipe says other, differs by that distribution's entropy, a constant: the
    gradient is the same.
    """

    draft: EagleDraft

    def batch(self, sequence: PackedSequence, generator: torch.Generator) -> Batch:
        """Every supervised row of every step, with all rows asked: the head is the cost, not the layer."""
        asked = ask(sequence, self.teaching.positions, dense_from=0.0)
        return Batch(sequence, tuple(asked.taught.counted.sum(dim=1).int().tolist()), asked)

    def backward(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        """Add the batch's gradient; returns the sums of its rows' losses, [K]."""
        taught, last = batch.rows.taught, batch.sequence.hidden_states[:, -1]  # [S, H]
        states = self.unroll(batch.sequence, batch.rows)  # K x [S, H]
        targets = self.verifier.normed(last[taught.opinions]).to(states[0].dtype)  # [M, H]
        features = torch.stack(
            [
                (functional.smooth_l1_loss(one[places], targets, reduction="none").mean(-1) * counted).sum()
                for one, places, counted in zip(states, taught.places, taught.counted)
            ]
        )  # [K]
        by_token = weights * TOKEN_WEIGHT
        tokens, gradients = taught_gradients(self.verifier, states, last, taught, by_token, self.loss)
        loss = (features * weights).sum()
        torch.autograd.backward([loss, *states], [torch.ones_like(loss), *gradients])
        return features.detach() + TOKEN_WEIGHT * tokens

    def unroll(self, sequence: PackedSequence, asked: Asked) -> list[torch.Tensor]:
        features = self.verifier.normed(sequence.hidden_states[:, -1])  # [S, H]
        embeddings = self.embeddings(sequence, asked.plan)  # [S + K - 1, H]
        states: list[torch.Tensor] = self.draft(
            features, embeddings, sequence.positions, sequence.documents, self.precision
        )
        choice = asked.plan.choice
        return states if choice is None else [one[choice.rows] for one in states]
