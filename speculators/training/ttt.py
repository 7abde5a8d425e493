"""Train-time-test: the draft practises drafting as serving will make it draft.

Serving a token chain: the verifier has read tokens 0..t and said token t+1.  The draft then sees

    row t = (aux states of t, embedding of token t+1, RoPE position t)  ->  guesses token t+2
    step 1: (its own state,   embedding of token t+2, position t+1)     ->  guesses token t+3
    step k: (its own state,   embedding of token t+1+k, position t+k)   ->  guesses token t+2+k

(vLLM: ``v1/spec_decode/llm_base_proposer.py``.)  Training runs all rows of a sequence at once and
feeds the *true* tokens.  That is exact, not an approximation, wherever it counts: a draft token at
step k can be accepted only if all earlier ones were right, and then the true tokens are what the
draft fed itself.

    row          0    1    2    3      tokens  x0 x1 x2 | x3 x4 x5      (| = generation starts)
    aux of       x0   x1   x2   x3
    step 0 reads x1   x2   x3   x4     guesses x2   x3*  x4*  x5*       (* = supervised)
    step 1 reads x2   x3   x4   x5     guesses x3*  x4*  x5*  -         (- = the document is over)

The first generated token (x3) comes free with the prefill and is never drafted in serving: the
first that can be drafted is x4, from row 2.  It is supervised all the same, as one more true
answer of the verifier.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from speculators.models.eagle3 import Eagle3Draft
from speculators.training.losses import forward_kl
from speculators.training.objective import Batch, Teaching
from speculators.training.packing import PackedSequence
from speculators.training.rows import supervised_rows
from speculators.training.verifier import FrozenVerifier


class StepRows(NamedTuple):
    """The supervised rows of one train-time-test step.

    ``rows[i]`` guesses token ``rows[i] + 2 + step``; the verifier's own opinion on that token is
    its state at ``rows[i] + 1 + step``.
    """

    step: int
    rows: torch.Tensor  # [R] int64

    @property
    def judges(self) -> torch.Tensor:
        """The rows of the verifier's opinions, [R] int64."""
        return self.rows + 1 + self.step

    @property
    def guessed(self) -> torch.Tensor:
        """The indexes of the tokens that are guessed, [R] int64."""
        return self.rows + 2 + self.step


class Asked(NamedTuple):
    """The index tensors of a batch."""

    opinions: torch.Tensor  # [M] int64, rows whose verifier state says a generated token
    steps: tuple[StepRows, ...]  # K


class TrainTimeTest:
    """The objective of EAGLE-3: forward KL to the verifier at every supervised row of K steps."""

    def __init__(self, draft: Eagle3Draft, verifier: FrozenVerifier, teaching: Teaching) -> None:
        self.draft, self.verifier, self.teaching = draft, verifier, teaching

    def batch(self, sequence: PackedSequence, generator: torch.Generator) -> Batch:
        """Every supervised row of every step; nothing is drawn."""
        steps = tuple(
            StepRows(step, supervised_rows(sequence, step)) for step in range(self.teaching.positions)
        )
        asked = Asked(supervised_rows(sequence, -1), steps)  # "step -1" of row i guesses token i+1
        return Batch(sequence, tuple(len(step.rows) for step in steps), asked)

    def weights(self, supervised: torch.Tensor) -> torch.Tensor:
        """Each step's mean over its rows, decayed: ``step_decay ** k / rows at k``, [K]."""
        steps = torch.arange(len(supervised), dtype=torch.float64, device=supervised.device)  # [K]
        return self.teaching.step_decay**steps / supervised.clamp(min=1)

    def backward(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        """Add the batch's gradient; returns the sums of its rows' divergences, [K]."""
        targets = target_logits(self.verifier, batch)  # [S, Vd]
        normed = unroll(self.draft, self.verifier, batch.sequence, self.teaching.positions)  # K x [S, H]
        sums = []
        for states, asked in zip(normed, batch.rows.steps):
            logits = states[asked.rows] @ self.verifier.draft_head.T  # [R, Vd]
            sums.append(forward_kl(logits, targets[asked.judges]).sum())
        divergences = torch.stack(sums)  # [K]
        (divergences * weights).sum().backward()
        return divergences.detach()

    def propose(self, sequence: PackedSequence, positions: int) -> torch.Tensor:
        """The draft's greedy tokens, [S, positions] int64; -1 where no generated token is guessed."""
        proposed = sequence.token_ids.new_full((len(sequence.token_ids), positions), -1)
        with torch.no_grad():
            normed = unroll(self.draft, self.verifier, sequence, positions)  # K x [S, H]
        for step, states in enumerate(normed):
            rows = supervised_rows(sequence, step)  # [R]
            logits = states[rows] @ self.verifier.draft_head.T  # [R, Vd]
            proposed[rows, step] = self.verifier.draft_ids[logits.argmax(dim=-1)]
        return proposed


def unroll(
    draft: Eagle3Draft, verifier: FrozenVerifier, sequence: PackedSequence, steps: int
) -> list[torch.Tensor]:
    """The normed states of ``steps`` train-time-test steps over a packed sequence, each [S, H].

    Rows near a document's end read a token of the next one; they guess nothing, and no other row
    can see them: keys of step 0 look backwards within the document, keys of later steps are seen
    by their own row only.
    """
    aux = sequence.hidden_states[:, :-1].flatten(1)  # [S, A*H]
    last_token = len(sequence.token_ids) - 1
    places = torch.arange(last_token + 1, device=sequence.token_ids.device)  # [S]
    read = [sequence.token_ids[(places + 1 + step).clamp(max=last_token)] for step in range(steps)]
    embeddings = [verifier.embedding[tokens] for tokens in read]  # K x [S, H]
    states: list[torch.Tensor] = draft(aux, embeddings, sequence.positions, sequence.documents)
    return states


def target_logits(verifier: FrozenVerifier, batch: Batch) -> torch.Tensor:
    """Verifier logits over the draft vocabulary, [S, Vd], computed once for all steps.

    Row i is the verifier's opinion on token i+1.  Rows that no step asks for stay zero: they cost
    neither head nor norm.
    """
    states, asked = batch.sequence.hidden_states, batch.rows.opinions  # [S, L, H], [M]
    with torch.no_grad():
        targets = states.new_zeros(len(states), len(verifier.draft_ids))  # [S, Vd]
        targets[asked] = verifier.draft_logits(states[asked, -1])
    return targets
