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

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.nn import functional

from speculators.checkpoint.verifier_weights import VerifierWeights
from speculators.models.eagle3 import Eagle3Draft
from speculators.training.packing import PackedSequence

CHUNK_ROWS = 256  # rows of full-vocabulary logits held at once: 256 x 152k x 4 B = 156 MB


class FrozenVerifier(NamedTuple):
    """The verifier's ends that training borrows: embedding in, final norm and head out."""

    embedding: torch.Tensor  # [V, H]
    final_norm: torch.Tensor  # [H]
    norm_eps: float
    head: torch.Tensor  # [V, H]
    draft_ids: torch.Tensor  # [Vd] int64, ascending
    draft_head: torch.Tensor  # [Vd, H]

    @classmethod
    def of(
        cls,
        weights: VerifierWeights,
        draft_ids: torch.Tensor,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> FrozenVerifier:
        embedding = weights.embedding.to(device, dtype)
        head = embedding if weights.head is weights.embedding else weights.head.to(device, dtype)
        draft_ids = draft_ids.to(device)
        norm = weights.final_norm.to(device, dtype)
        return cls(embedding, norm, weights.norm_eps, head, draft_ids, head[draft_ids])

    def normed(self, last: torch.Tensor) -> torch.Tensor:
        """States before the final norm [M, H] -> after it [M, H]."""
        return functional.rms_norm(last, self.final_norm.shape, self.final_norm, self.norm_eps)

    def draft_logits(self, last: torch.Tensor) -> torch.Tensor:
        """Verifier logits over the draft vocabulary: last-layer states [M, H] -> [M, Vd]."""
        return self.normed(last) @ self.draft_head.T

    def choices(self, last: torch.Tensor) -> torch.Tensor:
        """The verifier's greedy token over its *full* vocabulary: [M, H] -> [M] int64."""
        chunks = [(self.normed(chunk) @ self.head.T).argmax(dim=-1) for chunk in last.split(CHUNK_ROWS)]
        return torch.cat(chunks)  # [M]


class DraftStep(NamedTuple):
    """What one train-time-test step says at the rows where it is asked.

    ``rows[i]`` guesses token ``rows[i] + 2 + step``; the verifier's own opinion on that token is
    its state at ``rows[i] + 1 + step``.
    """

    step: int
    rows: torch.Tensor  # [R] int64
    logits: torch.Tensor  # [R, Vd] of the draft


def guessed_tokens(sequence: PackedSequence, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows whose guess at ``step`` lies in their own document, and the token index it is about.

    Returns rows [R] and token indexes [R], both ascending.
    """
    size = len(sequence.token_ids)
    rows = torch.arange(size - min(size, step + 2), device=sequence.token_ids.device)  # the guess is < S
    guessed = rows + step + 2
    inside = sequence.document_ids[rows] == sequence.document_ids[guessed]
    return rows[inside], guessed[inside]


def supervised_rows(sequence: PackedSequence, step: int) -> torch.Tensor:
    """Rows [R] that guess a generated token of their own document at ``step``."""
    rows, guessed = guessed_tokens(sequence, step)
    return rows[sequence.supervised[guessed]]


def draft_steps(
    draft: Eagle3Draft,
    verifier: FrozenVerifier,
    sequence: PackedSequence,
    steps: int,
) -> Iterator[DraftStep]:
    """Run ``steps`` train-time-test steps over a packed sequence, one at a time.

    The head, the widest matrix, runs at supervised rows only.  Rows near a document's end read a
    token of the next one; they guess nothing, and no other row can see them: keys of step 0 look
    backwards within the document, keys of later steps are seen by their own row only.
    """
    aux = sequence.hidden_states[:, :-1].flatten(1)  # [S, A*H]
    hidden = draft.combine(aux)  # [S, H]
    cache = draft.new_cache()
    last_token = len(sequence.token_ids) - 1
    places = torch.arange(last_token + 1, device=sequence.token_ids.device)  # [S]
    for step in range(steps):
        read = sequence.token_ids[(places + 1 + step).clamp(max=last_token)]  # [S]
        embeddings = verifier.embedding[read]  # [S, H]
        hidden, normed = draft.step(hidden, embeddings, sequence.positions + step, cache, sequence.documents)
        rows = supervised_rows(sequence, step)  # [R]
        yield DraftStep(step, rows, normed[rows] @ verifier.draft_head.T)


def target_logits(verifier: FrozenVerifier, sequence: PackedSequence) -> torch.Tensor:
    """Verifier logits over the draft vocabulary, [S, Vd], computed once for all steps.

    Row i is the verifier's opinion on token i+1.  Rows that no step asks for stay zero: they cost
    neither head nor norm.
    """
    asked = supervised_rows(sequence, -1)  # [M]: "step -1" of row i guesses token i+1
    with torch.no_grad():
        size = len(sequence.token_ids), len(verifier.draft_ids)
        targets = sequence.hidden_states.new_zeros(size)  # [S, Vd]
        targets[asked] = verifier.draft_logits(sequence.hidden_states[asked, -1])
    return targets


def target_tokens(verifier: FrozenVerifier, sequence: PackedSequence) -> torch.Tensor:
    """The verifier's greedy choice for each generated token, [S] int64 at the token's own index; else -1."""
    asked = supervised_rows(sequence, -1)  # [M]
    with torch.no_grad():
        tokens = torch.full_like(sequence.token_ids, -1)  # [S]
        tokens[asked + 1] = verifier.choices(sequence.hidden_states[asked, -1])
    return tokens
