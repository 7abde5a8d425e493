"""Which rows of a packed sequence guess what: the same for every architecture.

Row r of a sequence has read tokens 0..r+1 of its document when serving drafts from it, and its k-th
proposal is about token r + 2 + k (see ``training.ttt``).
"""

from __future__ import annotations

import torch

from speculators.training.packing import PackedSequence
from speculators.training.verifier import FrozenVerifier


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


def target_tokens(verifier: FrozenVerifier, sequence: PackedSequence) -> torch.Tensor:
    """The ``whole`` verifier's choice for each generated token, [S] int64 at its own index; else -1."""
    asked = supervised_rows(sequence, -1)  # [M]
    with torch.no_grad():
        tokens = torch.full_like(sequence.token_ids, -1)  # [S]
        tokens[asked + 1] = verifier.choices(sequence.hidden_states[asked, -1])
    return tokens
