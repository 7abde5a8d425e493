"""DFlash: a block of masks behind the last known token becomes a block of tokens in one pass.

The draft is a decoder whose keys and values for everything read so far come from the verifier's
states, while its queries are a block of K + 1 rows: the last known token and K masks.

    context t = hidden_norm(fc(aux states of t))                   t = 0..r, position t
    block     = [token r+1, mask, ..., mask]                       positions r+1, ..., r+1+K
    row k of the block, k = 1..K                                -> guesses token r+1+k

Every row of the block sees the whole context and the whole block, backwards and forwards: unlike
EAGLE's, a guess depends on how many masks stand behind it, so a draft must be served with the block
it was trained on.  Context rows make no queries, so their states stay what they are from layer to
layer: each layer projects the same ``context`` to its own keys and values.
(vLLM: ``model_executor/models/qwen3_dflash.py``, ``v1/spec_decode/dflash.py``.)

Training draws *anchors*, the rows r behind which a block begins, as Chen et al. (arXiv 2602.06036) do;
the true tokens within a block are never read, so a guess does not depend on whether those before
it were right.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from speculators.checkpoint.dflash import DFlashConfig
from speculators.models.eagle3 import INIT_STD, MLP, rms_norm
from speculators.models.rope import Rope, turn
from speculators.models.unroll import FULL_PRECISION, Precision
from speculators.training.asked import Taught, taught_by
from speculators.training.chunked import greedy_tokens, taught_gradients
from speculators.training.losses import WeightedSum
from speculators.training.objective import Batch, Teaching, moved, step_means
from speculators.training.packing import PackedSequence
from speculators.training.rows import supervised_rows
from speculators.training.verifier import FrozenVerifier

BLOCKS_AT_ONCE = 256  # when proposing: scores of so many blocks against a document are held


class Blocks(NamedTuple):
    """Where blocks begin.  ``spans``: first row and end row of each document, first and end block in it."""

    anchors: torch.Tensor  # [N] int64 rows, ascending
    spans: tuple[tuple[int, int, int, int], ...]

    @classmethod
    def behind(cls, anchors: torch.Tensor, documents: tuple[tuple[int, int], ...]) -> Blocks:
        """Blocks behind ``anchors`` of a packed sequence; documents without one are left out."""
        edges = torch.tensor(documents, device=anchors.device)  # [D, 2]
        cuts = torch.searchsorted(anchors, edges).tolist()
        spans = [(*rows, *blocks) for rows, blocks in zip(documents, cuts) if blocks[0] < blocks[1]]
        return cls(anchors, tuple(spans))


class BlockAttention(nn.Module):
    """Attention of blocks over context and block, with a norm on every head's queries and keys."""

    def __init__(self, config: DFlashConfig) -> None:
        super().__init__()
        self.config = config
        query_size = config.num_attention_heads * config.head_dim
        key_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, key_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, key_size, bias=False)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=False)
        self.q_norm = rms_norm(config, config.head_dim)
        self.k_norm = rms_norm(config, config.head_dim)
        self.rope = Rope.of(config.rope_parameters, config.head_dim)

    def keys_values(self, x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of rows x [R, H] at positions [R]: two of [R, Hkv, D]."""
        shape = (len(x), self.config.num_key_value_heads, self.config.head_dim)
        keys = self.k_norm(self.k_proj(x).view(shape).to(x.dtype))  # [R, Hkv, D]
        keys = turn(keys, *self.rope.tables(positions, x.dtype))
        return keys, self.v_proj(x).view(shape)

    def forward(
        self,
        x: torch.Tensor,
        context: torch.Tensor,
        positions: torch.Tensor,
        block_positions: torch.Tensor,
        blocks: Blocks,
    ) -> torch.Tensor:
        """x [N, B, H] at block_positions [N, B], context [S, H] at positions [S] -> [N, B, H]."""
        config, (count, size, _) = self.config, x.shape
        rows, places = x.flatten(0, 1), block_positions.flatten()  # [N*B, H], [N*B]
        heads, dim = config.num_key_value_heads, config.head_dim
        queries = self.q_norm(self.q_proj(rows).view(count * size, -1, dim).to(x.dtype))  # [N*B, Hq, D]
        queries = turn(queries, *self.rope.tables(places, rows.dtype))
        queries = queries.view(count, size, heads, -1, dim)  # [N, B, Hkv, G, D]
        shape = (count, size, heads, dim)
        own = [part.view(shape) for part in self.keys_values(rows, places)]  # 2 x [N, B, Hkv, D]
        read = self.keys_values(context, positions)  # 2 x [S, Hkv, D]
        mixed = []
        for start, end, first, last in blocks.spans:
            seen = torch.arange(start, end, device=x.device) <= blocks.anchors[first:last, None]  # [n, T]
            keys, values = (part[start:end] for part in read)
            own_keys, own_values = (part[first:last] for part in own)
            mixed.append(attend(queries[first:last], keys, values, own_keys, own_values, seen))
        return self.o_proj(torch.cat(mixed).flatten(2))  # [N, B, H]


def attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    own_keys: torch.Tensor,
    own_values: torch.Tensor,
    seen: torch.Tensor,
) -> torch.Tensor:
    """Blocks of one document: queries [N, B, Hkv, G, D] over what ``seen`` [N, T] says of keys and values
    [T, Hkv, D], and over their own [N, B, Hkv, D] in both directions.  Returns [N, B, Hkv * G, D].
    """
    queries = queries * queries.shape[-1] ** -0.5
    past = torch.einsum("nbkgd,tkd->nkgbt", queries, keys)  # [N, Hkv, G, B, T]
    past = past.masked_fill(~seen[:, None, None, None], -torch.inf)
    own = torch.einsum("nbkgd,nskd->nkgbs", queries, own_keys)  # [N, Hkv, G, B, B]
    weights = torch.cat([past, own], dim=-1).softmax(dim=-1)  # [N, Hkv, G, B, T + B]
    mixed = torch.einsum("nkgbt,tkd->nbkgd", weights[..., : len(keys)], values)  # [N, B, Hkv, G, D]
    mixed = mixed + torch.einsum("nkgbs,nskd->nbkgd", weights[..., len(keys) :], own_values)
    return mixed.flatten(2, 3)


class DFlashLayer(nn.Module):
    """A pre-norm layer of Qwen3's kind over a block."""

    def __init__(self, config: DFlashConfig) -> None:
        super().__init__()
        self.input_layernorm = rms_norm(config, config.hidden_size)
        self.self_attn = BlockAttention(config)
        self.post_attention_layernorm = rms_norm(config, config.hidden_size)
        self.mlp = MLP(config)

    def forward(
        self,
        x: torch.Tensor,
        context: torch.Tensor,
        positions: torch.Tensor,
        block_positions: torch.Tensor,
        blocks: Blocks,
    ) -> torch.Tensor:
        attended = self.self_attn(self.input_layernorm(x), context, positions, block_positions, blocks)
        x = x + attended  # [N, B, H]
        return x + self.mlp(self.post_attention_layernorm(x))  # [N, B, H]


class DFlashDraft(nn.Module):
    """From the verifier's states and blocks of embeddings to what the head reads."""

    def __init__(self, config: DFlashConfig) -> None:
        super().__init__()
        self.config = config
        self.fc = nn.Linear(len(config.aux_layers) * config.hidden_size, config.hidden_size, bias=False)
        self.hidden_norm = rms_norm(config, config.hidden_size)
        self.layers = nn.ModuleList(DFlashLayer(config) for _ in range(config.layers))
        self.norm = rms_norm(config, config.hidden_size)
        for matrix in self.parameters():
            if matrix.dim() == 2:
                nn.init.normal_(matrix, std=INIT_STD)

    def forward(
        self,
        aux: torch.Tensor,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        blocks: Blocks,
        precision: Precision = FULL_PRECISION,
    ) -> torch.Tensor:
        """aux [S, A*H] at positions [S], embeddings [N, B, H] -> normed states [N, B, H]."""
        offsets = torch.arange(1, embeddings.shape[1] + 1, device=positions.device)  # [B]
        block_positions = positions[blocks.anchors, None] + offsets  # [N, B]
        stream = self.fc.weight.dtype
        x = embeddings.to(stream)
        with precision.products(aux.device):
            context = self.hidden_norm(self.fc(aux.to(stream)).to(stream))  # [S, H]
            for layer in self.layers:
                x = precision.run(layer, x, context, positions, block_positions, blocks)  # [N, B, H]
        return self.norm(x)


class Drawn(NamedTuple):
    """What a batch holds beside its sequence; the taught tokens' places are blocks."""

    blocks: Blocks
    taught: Taught


class BlockDrafting:
    """The objective of DFlash: a divergence from the verifier at every guess of the drawn blocks."""

    def __init__(self, draft: DFlashDraft, verifier: FrozenVerifier, teaching: Teaching) -> None:
        self.draft, self.verifier, self.teaching = draft, verifier, teaching
        self.loss = WeightedSum(teaching.losses)
        self.precision = Precision(teaching.dtype, teaching.checkpointing)
        first, *others = (layer.self_attn.k_norm.weight for layer in draft.layers)
        self.one_key_gain = all(torch.equal(first, gain) for gain in others)

    def batch(self, sequence: PackedSequence, generator: torch.Generator) -> Batch:
        """Draw the anchors: rows whose first guess is a generated token, at most ``teaching.anchors``."""
        rows = supervised_rows(sequence, 0)  # [M]
        drawn = torch.randperm(len(rows), generator=generator)[: self.teaching.anchors]
        anchors = rows[drawn.sort().values]  # [N]
        drawing = draw(sequence, anchors, self.teaching.positions)
        return Batch(sequence, tuple(drawing.taught.counted.sum(dim=1).int().tolist()), drawing)

    def weights(self, supervised: torch.Tensor) -> torch.Tensor:
        """Each position's mean over its guesses, decayed, [K]."""
        return step_means(supervised, self.teaching.step_decay)

    def backward(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        """Add the batch's gradient; returns the sums of its guesses' divergences, [K]."""
        drawn: Drawn = batch.rows
        states = self.states(batch.sequence, drawn.blocks, self.teaching.positions)  # K x [N, H]
        last = batch.sequence.hidden_states[:, -1]  # [S, H]
        sums, gradients = taught_gradients(self.verifier, states, last, drawn.taught, weights, self.loss)
        torch.autograd.backward(states, gradients)
        if self.one_key_gain:
            self.share_key_gains()
        return sums

    def share_key_gains(self) -> None:
        """Give every layer's key norm the same gradient, so that their gains stay equal.

        vLLM's CPU build scales the context keys of every layer by layer 0's gain
        (``checkpoint/dflash.py``, ``checks``); with equal gains it computes what was trained.  A draft
        that starts with others, as a published one may, keeps them: one gradient would fit none of them.
        """
        gains = [layer.self_attn.k_norm.weight for layer in self.draft.layers]
        gradients = [gain.grad for gain in gains if gain.grad is not None]
        if gradients:
            mean = torch.stack(gradients).mean(dim=0)  # [D]
            for gradient in gradients:
                gradient.copy_(mean)

    def propose(self, sequence: PackedSequence, positions: int) -> torch.Tensor:
        """The draft's greedy tokens, [S, positions] int64; -1 where no generated token is guessed."""
        guessing = [supervised_rows(sequence, step) for step in range(positions)]  # K x [R]
        proposed = sequence.token_ids.new_full((len(sequence.token_ids), positions), -1)
        anchors = torch.cat(guessing).unique()  # [N]
        for some in anchors.split(BLOCKS_AT_ONCE) if len(anchors) else ():
            drawn: Drawn = moved(draw(sequence, some.cpu(), positions), sequence.token_ids.device)
            with torch.no_grad():
                states = self.states(sequence, drawn.blocks, positions)  # K x [n, H]
                said = greedy_tokens(self.verifier, states, drawn.taught, len(proposed))  # [S, K]
            proposed = torch.where(said >= 0, said, proposed)
        return proposed

    def states(self, sequence: PackedSequence, blocks: Blocks, positions: int) -> list[torch.Tensor]:
        """What the head reads for each guess of each block, K x [N, H]."""
        known = self.verifier.embedding[sequence.token_ids[blocks.anchors + 1]]  # [N, H]
        mask = self.verifier.embedding[self.draft.config.mask_token_id]  # [H]
        masks = mask.expand(len(known), positions, -1)  # [N, K, H]
        embeddings = torch.cat([known[:, None], masks], dim=1)  # [N, 1 + K, H]
        aux = sequence.hidden_states[:, :-1].flatten(1)  # [S, A*H]
        states = self.draft(aux, embeddings, sequence.positions, blocks, self.precision)  # [N, 1 + K, H]
        return list(states[:, 1:].unbind(dim=1))


def draw(sequence: PackedSequence, anchors: torch.Tensor, positions: int) -> Drawn:
    """Blocks behind ``anchors`` [N], ascending, and the generated tokens that they guess; on the CPU."""
    anchored = torch.zeros(len(sequence.token_ids), dtype=torch.bool)
    anchored[anchors] = True
    guessing = [supervised_rows(sequence, step).cpu() for step in range(positions)]  # K x [R]
    taught = taught_by([rows[anchored[rows]] for rows in guessing], anchored)
    return Drawn(Blocks.behind(anchors, sequence.documents), taught)
