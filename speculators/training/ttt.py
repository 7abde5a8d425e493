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

import torch
from torch.autograd.graph import get_gradient_edge

from speculators.errors import StageError
from speculators.models.eagle3 import Eagle3Draft
from speculators.models.unroll import Plan, Precision
from speculators.training.asked import Asked, ask
from speculators.training.chunked import greedy_tokens, taught_gradients
from speculators.training.losses import Compared, WeightedSum
from speculators.training.objective import Batch, Teaching, moved, step_means
from speculators.training.packing import PackedSequence
from speculators.training.verifier import FrozenVerifier


class TrainTimeTest:
    """The objective of EAGLE-3: a divergence from the verifier at every supervised row of K steps.

    All K steps run first, at the asked rows; then one pass over the taught tokens yields the loss and
    its gradient with respect to the normed states; then one backward pass runs through the K steps.
    """

    def __init__(self, draft: Eagle3Draft, verifier: FrozenVerifier, teaching: Teaching) -> None:
        """Raises ``StageError`` where a sliding window is no longer than the drafted tokens."""
        self.draft, self.verifier, self.teaching = draft, verifier, teaching
        self.loss = WeightedSum(teaching.losses)
        self.precision = Precision(teaching.dtype, teaching.checkpointing)
        self.require_window(teaching.positions)

    def require_window(self, positions: int) -> None:
        """Refuse to draft so many tokens that a sliding window holds none of the verifier's."""
        window = self.draft.config.sliding_window
        if window is not None and window <= positions:
            raise StageError(
                f"a sliding window of {window} tokens is filled by {positions} drafted ones",
                hint="draft fewer tokens, or use a draft with a wider window",
                rule="window-too-short",
            )

    def batch(self, sequence: PackedSequence, generator: torch.Generator) -> Batch:
        """Every supervised row of every step; nothing is drawn."""
        asked = self.ask(sequence, self.teaching.positions)
        counts = asked.taught.counted.sum(dim=1).int().tolist()
        return Batch(sequence, tuple(counts), asked)

    def ask(self, sequence: PackedSequence, positions: int) -> Asked:
        """The row sets of ``sequence``, on the CPU."""
        return ask(sequence, positions)

    def weights(self, supervised: torch.Tensor) -> torch.Tensor:
        """Each step's mean over its rows, decayed, [K]."""
        return step_means(supervised, self.teaching.step_decay)

    def backward(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        """Add the batch's gradient; returns the sums of its rows' divergences, [K]."""
        asked: Asked = batch.rows
        normed = self.unroll(batch.sequence, asked)  # K x [N, H]
        last = batch.sequence.hidden_states[:, -1]  # [S, H]
        sums, gradients = taught_gradients(self.verifier, normed, last, asked.taught, weights, self.loss)
        edges = [get_gradient_edge(one) for one in normed]
        del normed  # of which the gradients are all that is still needed
        torch.autograd.backward(edges, gradients)
        return sums

    def propose(self, sequence: PackedSequence, positions: int) -> torch.Tensor:
        """The draft's greedy tokens, [S, positions] int64; -1 where no generated token is guessed.

        More than are practised, it may be: raises ``StageError`` where a sliding window is filled by them.
        """
        self.require_window(positions)
        device = sequence.token_ids.device
        asked: Asked = moved(self.ask(sequence, positions), device)
        with torch.no_grad():
            normed = self.unroll(sequence, asked)  # K x [N, H]
            return greedy_tokens(self.verifier, normed, asked.taught, len(sequence.token_ids))

    def unroll(self, sequence: PackedSequence, asked: Asked) -> list[torch.Tensor]:
        """The draft's normed states at the asked rows, K x [N, H]."""
        states, embeddings = sequence.hidden_states[:, :-1], self.embeddings(sequence, asked.plan)
        normed: list[torch.Tensor] = self.draft(states, embeddings, asked.plan, self.precision)
        return normed

    def embeddings(self, sequence: PackedSequence, plan: Plan) -> torch.Tensor:
        """Of the tokens that ``plan`` reads, [S + K - 1, H]."""
        return self.verifier.embedding[sequence.token_ids[plan.read]]


class DenseTrainTimeTest(TrainTimeTest):
    """The oracle: every row of every step, every logit kept, gradients by autograd alone.

    Slow and obviously right.  The fast objective must equal it, and training falls back to it on a
    machine where that fails.  It knows one precision: the draft's, which the verifier's must be.
    """

    def ask(self, sequence: PackedSequence, positions: int) -> Asked:
        """The row sets of ``sequence`` with every row asked."""
        return ask(sequence, positions, dense_from=0.0)

    def backward(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        """Add the batch's gradient; returns the sums of its rows' divergences, [K]."""
        taught = batch.rows.taught
        last = batch.sequence.hidden_states[taught.opinions, -1]  # [M, H]
        with torch.no_grad():
            opinions = self.verifier.draft_logits(last)  # [M, Vd]
        sums = []
        for states, places, counted in zip(self.unroll(batch.sequence, batch.rows), *taught[1:]):
            logits = states[places] @ self.verifier.spoken_head.T  # [M, Vd]
            sums.append((self.loss.value(Compared.of(logits, opinions)) * counted).sum())
        divergences = torch.stack(sums)  # [K]
        (divergences * weights).sum().backward()
        return divergences.detach()

    def unroll(self, sequence: PackedSequence, asked: Asked) -> list[torch.Tensor]:
        """The draft's normed states at all rows, K x [S, H]."""
        states, embeddings = sequence.hidden_states[:, :-1], self.embeddings(sequence, asked.plan)
        return self.draft.dense(states, embeddings, sequence.positions, sequence.documents)
