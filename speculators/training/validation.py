"""How good is the draft on documents it does not learn from?

Judged against the verifier's choice from its *full* vocabulary: a token that the draft cannot say
is a miss, as it is in serving.  The headline is the replayed acceptance length (``acceptance``);
rates over all rows stand beside it, because they have less noise and show which position fails.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from speculators.datagen.shards import Document
from speculators.training.acceptance import Replayed, summary, tally
from speculators.training.noise import noise
from speculators.training.objective import Objective
from speculators.training.packing import PackedSequence, filled, outlined, plan_epoch
from speculators.training.ranks import ALONE, Ranks, balanced
from speculators.training.rows import guessed_tokens, target_tokens
from speculators.training.verifier import FrozenVerifier


class ValidationBatch(NamedTuple):
    """Documents side by side and the verifier's choices on them, which no epoch changes; on the CPU.

    ``sequence`` is without states, which are brought when it is replayed: those of all held-out documents
    need not fit into a GPU.
    """

    documents: list[Document]
    sequence: PackedSequence
    truth: torch.Tensor  # [S] int64, -1 where the verifier was not asked


def brought(
    outline: PackedSequence, documents: Sequence[Document], verifier: FrozenVerifier
) -> PackedSequence:
    """The ``outlined`` documents with their states, where the verifier is."""
    ends = verifier.embedding
    return filled(outline, documents, ends.dtype).to(ends.device)


def prepare(
    verifier: FrozenVerifier, documents: Sequence[Document], sequence_length: int
) -> list[ValidationBatch]:
    """Pack the validation documents in their order and ask the verifier once."""
    batches, verifier = [], verifier.whole()
    lengths = [len(document.token_ids) for document in documents]
    for numbers in plan_epoch(lengths, sequence_length, seed=None):
        chosen = [documents[number] for number in numbers]
        outline = outlined(chosen)
        truth = target_tokens(verifier, brought(outline, chosen, verifier))
        batches.append(ValidationBatch(chosen, outline, truth.cpu()))
    return batches


def agreement(batches: Iterable[ValidationBatch]) -> float | None:
    """Fraction of generated tokens that are the verifier's own full-vocabulary choice.

    Near 1 for greedy responses (ties aside).  Much less means sampled responses, or states that do
    not belong to these tokens.
    """
    same = asked = 0
    for batch in batches:
        known = batch.truth >= 0
        asked += int(known.sum())
        same += int((batch.truth[known] == batch.sequence.token_ids[known]).sum())
    return same / asked if asked else None


def match_matrix(
    objective: Objective, sequence: PackedSequence, positions: int, truth: torch.Tensor
) -> torch.Tensor:
    """Where the draft would be right: [S, K] bool, entry (r, k) about token ``truth[r + 2 + k]``.

    ``truth`` [S]: the verifier's greedy token at each index.
    """
    return matching(objective.propose(sequence, positions), truth)


def replayed(objective: Objective, batch: ValidationBatch, positions: int) -> torch.Tensor:
    """The match matrix of a batch, [S, K] bool on the CPU."""
    sequence = brought(batch.sequence, batch.documents, objective.verifier)
    truth = batch.truth.to(objective.verifier.embedding.device)
    return match_matrix(objective, sequence, positions, truth).cpu()


def matching(proposed: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Which of the proposals [S, K] are the verifier's own choice, [S, K] bool.

    False where row r cannot know (other document, behind the end) and where the token is of the
    prompt; a token outside the draft vocabulary is always a miss.  Feeding true tokens makes entry
    (r, k) exact whenever all entries before it in the row are true, and no other entry is ever used.
    """
    positions = proposed.shape[1]
    ends = truth.new_full((positions + 1,), -1)
    spans = torch.cat([truth[2:], ends]).unfold(0, positions, 1)  # [S, K]: (r, k) is truth[r + 2 + k]
    return (proposed == spans[: len(truth)]) & (proposed >= 0)


def row_rates(
    batches: Sequence[ValidationBatch], matches: Sequence[torch.Tensor], steps: int
) -> dict[str, Any]:
    """Acceptance of each position over all rows that serving could draft from.

    ``joint[k]``: positions 0..k all right, of the rows that know position k.
    ``conditional[k]``: position k right, of those rows whose earlier positions were all right.
    """
    joint, conditional, rows_seen = [], [], []
    for step in range(steps):
        known = reached = right = 0
        for batch, matrix in zip(batches, matches):
            rows, guessed = guessed_tokens(batch.sequence, step)
            # From row P - 1 on: the first generated token comes free with the prefill.
            rows = rows[batch.sequence.supervised[guessed - step - 1]]  # token r + 1 was generated
            alive = matrix[rows, :step].all(dim=1)
            known, reached = known + len(rows), reached + int(alive.sum())
            right += int((alive & matrix[rows, step]).sum())
        joint.append(right / known if known else None)
        conditional.append(right / reached if reached else None)
        rows_seen.append(known)
    return {"joint": joint, "conditional": conditional, "rows": rows_seen}


class Judged(NamedTuple):
    """A draft's figures on the validation documents, and what its noise is counted from."""

    figures: dict[str, Any]
    counts: tuple[tuple[int, int], ...]  # accepted tokens and drafts of each document


def judge(batches: Sequence[ValidationBatch], matches: Sequence[torch.Tensor], steps: int) -> Judged:
    """All figures of one validation's match matrices, one [S, K] for each batch."""
    drafted = []
    for batch, matrix in zip(batches, matches):
        for document, (start, end) in zip(batch.documents, batch.sequence.documents):
            one = tally(matrix[start:end].tolist(), document.prompt_tokens)
            tokens = end - start - document.prompt_tokens
            drafted.append(Replayed(document.id, document.looping, tokens, one))
    counts = tuple((sum(one.tally.accepted), one.tally.drafts) for one in drafted)
    error = noise(counts)
    summed = summary(drafted, steps)
    figures = {
        **summed["all"],
        # None: one document says nothing about others.
        "acceptance_error": error if math.isfinite(error) else None,
        **row_rates(batches, matches, steps),
        "without_looping": summed["without_looping"],
    }
    return Judged(figures, counts)


def evaluate(
    objective: Objective, batches: Sequence[ValidationBatch], steps: int, ranks: Ranks = ALONE
) -> Judged:
    """Replay the objective's draft on prepared batches; each of the ``ranks`` runs some of them."""
    own = balanced([len(batch.sequence.token_ids) for batch in batches], ranks.count)[ranks.index]
    found = ranks.gather({number: replayed(objective, batches[number], steps) for number in own})
    matches = {number: matrix for share in found for number, matrix in share.items()}
    return judge(batches, [matches[number] for number in range(len(batches))], steps)
