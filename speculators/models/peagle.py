"""P-EAGLE: EAGLE-3's decoder drafts all its tokens in one pass.

EAGLE-3 runs K times, because each step reads the state and the token of the one before.  Here every
step but the first reads stand-ins instead, the same everywhere:

    row t, depth 0 = (aux states of t, embedding of token t+1,   position t)    -> guesses token t+2
    row t, depth d = (mask_hidden,     embedding of the mask,    position t+d)  -> guesses token t+2+d

so that all depths are rows of one causal pass: depth d of row t sees rows 0..t at depth 0 and depths
1..d of its own row.  That is the very structure of train-time-test, with other inputs.
(vLLM: ``v1/spec_decode/llm_base_proposer.py``, ``set_inputs_first_pass``; there ``mask_hidden`` goes
through norm and ``fc`` like the states it stands for.)

P-EAGLE (arXiv 2602.01469) trains each depth on a thinned sample of rows to save memory; here every
supervised row is trained at every depth, and what train-time-test leaves out is left out as well
(``models.unroll``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from speculators.checkpoint.peagle import PEagleConfig
from speculators.models.eagle3 import INIT_STD, Eagle3Draft, Span
from speculators.models.operators import normed, turned
from speculators.models.unroll import FULL_PRECISION, Choice, Plan, Precision, Stream, Unroll, product
from speculators.training.objective import Teaching
from speculators.training.packing import PackedSequence
from speculators.training.ttt import DenseTrainTimeTest, TrainTimeTest
from speculators.training.verifier import FrozenVerifier


class PEagleDraft(Eagle3Draft):
    """EAGLE-3's modules and the vector that stands for unknown verifier states.

    Both ways of running it read as ``embeddings`` [T + K - 1, H] those of each row's next token, and
    below them the mask's, once for each depth but the first.
    """

    config: PEagleConfig

    def __init__(self, config: PEagleConfig) -> None:
        super().__init__(config)
        fused = len(config.aux_layers) * config.hidden_size
        self.mask_hidden = nn.Parameter(INIT_STD * torch.randn(1, 1, fused))  # [1, 1, A*H]

    def unknown(self) -> torch.Tensor:
        """The state of a token that is not known yet, [1, H]."""
        return self.combine(self.mask_hidden.flatten(0, 1))

    def dense(
        self,
        states: torch.Tensor,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        documents: Sequence[Span],
    ) -> list[torch.Tensor]:
        """All K depths of every row, K x [T, H]: the oracle of ``forward``."""
        rows, cache, normed = len(positions), self.new_cache(), []
        hidden, read = self.combine(states.flatten(1)), embeddings[:rows]  # [T, H]
        for depth in range(len(embeddings) - rows + 1):
            if depth:
                hidden, read = self.unknown().expand(rows, -1), embeddings[rows + depth - 1].expand(rows, -1)
            normed.append(self.step(hidden, read, positions + depth, cache, documents)[1])
        return normed

    def forward(
        self,
        states: torch.Tensor,
        embeddings: torch.Tensor,
        plan: Plan,
        precision: Precision = FULL_PRECISION,
    ) -> list[torch.Tensor]:
        """What ``dense`` computes, at the rows ``plan`` asks for only: K x [N, H]."""
        return Depths(self, masked(plan), precision).run(states, embeddings)


class Depths(Unroll):
    """Train-time-test in which every step but the first reads the stand-ins."""

    draft: PEagleDraft

    def left(self, hidden: torch.Tensor) -> tuple[torch.Tensor, Stream]:
        eps, gain = self.config.rms_norm_eps, self.draft.norm.weight
        _, final = normed(hidden, eps, self.dtype, (gain, self.dtype))  # [N, H]
        return final, self.entered(self.draft.unknown().to(hidden.dtype).expand_as(hidden))

    def project(
        self, index: int, step: int, unit: torch.Tensor, said: torch.Tensor, units: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries [rows, Hq, D], and keys and values [rows, 2 Hkv, D], of the same rows.

        At a later depth all rows read the same: it is projected once.  Were each row to gather it, their
        gradients would be added one by one into a single row, which in half precision soon no longer grows.
        """
        if index or not step:
            return super().project(index, step, unit, said, units)
        mask = said[step - self.plan.steps, None]  # [1, P]; the masks lie below the rows' own
        made = product(unit[:1], self.layers[0].state, mask).expand(len(unit), -1)  # [N, P]
        return turned(made, *self.angles[step], self.config.num_attention_heads)


def masked(plan: Plan) -> Plan:
    """``plan`` with the masks below the S tokens' embeddings, one for each later step, at which all rows
    read it: places are of step 0 alone."""
    size, later = len(plan.positions), plan.steps - 1
    everyone = torch.arange(size + later, device=plan.positions.device)  # [S + K - 1]
    rows = everyone[:size] if plan.choice is None else plan.choice.rows  # [N]
    table = torch.cat([rows, everyone[size:]])  # [N + K - 1]
    return plan._replace(choice=Choice(rows, table, everyone[None, : len(rows)]))


class ParallelDepths(TrainTimeTest):
    """The objective of P-EAGLE: a divergence from the verifier at every supervised row of K depths."""

    draft: PEagleDraft

    def __init__(self, draft: PEagleDraft, verifier: FrozenVerifier, teaching: Teaching) -> None:
        super().__init__(draft, verifier, teaching)
        # A single depth reads no stand-in, and DDP refuses a trained parameter that gets no gradient.
        draft.mask_hidden.requires_grad_(teaching.positions > 1)

    def embeddings(self, sequence: PackedSequence, plan: Plan) -> torch.Tensor:
        """Of each row's next token, and below them the mask's, [S + K - 1, H]."""
        known = sequence.token_ids[plan.read[: len(plan.positions)]]  # [S]
        mask = known.new_full((plan.steps - 1,), self.draft.config.mask_token_id)  # [K - 1]
        return self.verifier.embedding[torch.cat([known, mask])]


class DenseParallelDepths(ParallelDepths, DenseTrainTimeTest):
    """The oracle: every depth of every row, every logit kept."""
