"""What a draft without training reaches: the figures a trained one must beat to be worth its cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from speculators.datagen.shards import Document
from speculators.training.rows import supervised_rows
from speculators.training.validation import ValidationBatch


def bigram_successors(documents: Iterable[Document], vocab_size: int) -> torch.Tensor:
    """The commonest generated follower of each token, [V] int64; -1 for tokens never followed."""
    spans = [document.token_ids[max(document.prompt_tokens - 1, 0) :] for document in documents]
    codes = torch.cat([span[:-1] * vocab_size + span[1:] for span in spans])  # [M] one number a pair
    codes, counts = codes.unique(return_counts=True)
    order = torch.argsort(counts, stable=True)  # the last writer of a slot below is its commonest pair
    successors = torch.full((vocab_size,), -1, dtype=torch.int64)
    for code in codes[order].tolist():
        successors[code // vocab_size] = code % vocab_size
    return successors


def bigram_matches(
    successors: torch.Tensor, batches: Sequence[ValidationBatch], steps: int
) -> list[torch.Tensor]:
    """Match matrices [S, K] of drafting by the bigram table."""
    matrices = []
    for batch in batches:
        tokens = batch.sequence.token_ids
        matches = torch.zeros(len(tokens), steps, dtype=torch.bool)
        for step in range(steps):
            rows = supervised_rows(batch.sequence, step)
            # True tokens go in, as in train-time-test: exact wherever the earlier guesses were right.
            matches[rows, step] = successors[tokens[rows + 1 + step]] == batch.truth[rows + 2 + step]
        matrices.append(matches)
    return matrices
