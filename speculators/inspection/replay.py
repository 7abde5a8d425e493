"""The predicted acceptance length: greedy drafting replayed on what the verifier really said.

Where each row's proposals match is computed here, for all rows at once; which rows serving would
draft from, and what it would count there, is ``training.acceptance``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speculators.checkpoint.read import read_checkpoint
from speculators.checkpoint.verifier_weights import load_verifier_weights
from speculators.datagen.shards import Document
from speculators.training.acceptance import Replayed, summary, tally
from speculators.training.architectures import ARCHITECTURES
from speculators.training.objective import Objective, Teaching
from speculators.training.packing import pack, plan_epoch
from speculators.training.validation import match_matrix
from speculators.training.verifier import FrozenVerifier

REPLAY_LENGTH = 1024  # tokens replayed in one pass; a longer document is a pass of its own


def replay(objective: Objective, documents: Sequence[Document], steps: int) -> list[Replayed]:
    """Replay greedy drafting of ``steps`` tokens on documents whose tokens the verifier chose greedily."""
    replayed, verifier = [], objective.verifier
    for numbers in plan_epoch([len(document.token_ids) for document in documents], REPLAY_LENGTH, seed=None):
        chosen = [documents[number] for number in numbers]
        sequence = pack(chosen, dtype=verifier.embedding.dtype).to(verifier.embedding.device)
        matches = match_matrix(objective, sequence, steps, truth=sequence.token_ids).cpu()
        for document, (start, end) in zip(chosen, sequence.documents):
            one = tally(matches[start:end].tolist(), document.prompt_tokens)
            tokens = max(0, end - start - document.prompt_tokens)
            replayed.append(Replayed(document.id, document.looping, tokens, one))
    return replayed


def replay_checkpoint(
    model_dir: Path, verifier_dir: Path, documents: Sequence[Document], speculative_tokens: int | None = None
) -> dict[str, Any]:
    """What serving ``model_dir`` should reach on ``documents``; K is the checkpoint's unless given.

    Raises:
        StageError: the draft is of a kind that our own model does not compute.
    """
    loaded = read_checkpoint(model_dir)
    steps = speculative_tokens or loaded.speculative_tokens
    verifier = FrozenVerifier.of(load_verifier_weights(verifier_dir), loaded.draft_ids)
    if loaded.embedding is not None:
        verifier = verifier._replace(embedding=loaded.embedding)
    if loaded.head is not None:
        verifier = verifier._replace(own_head=loaded.head)
    objective = ARCHITECTURES[loaded.kind].load().objective(loaded.draft, verifier, Teaching(steps))
    return {"speculative_tokens": steps, **summary(replay(objective, documents, steps), steps)}
