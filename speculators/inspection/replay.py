"""The predicted acceptance length: greedy drafting replayed on what the verifier really said.

Where each row's proposals match is computed here, for all rows at once; which rows serving would
draft from, and what it would count there, is ``training.acceptance``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from speculators.checkpoint.read import LoadedDraft, read_checkpoint
from speculators.checkpoint.verifier_weights import VerifierWeights, load_verifier_weights
from speculators.datagen.shards import Document
from speculators.inspection.drafts import Decode, Drafted, drafts_of, extremes, spelled
from speculators.training.acceptance import Replayed, leading_matches, summary, tally
from speculators.training.architectures import ARCHITECTURES
from speculators.training.objective import Objective, Teaching
from speculators.training.packing import pack, plan_epoch
from speculators.training.validation import matching
from speculators.training.verifier import FrozenVerifier

REPLAY_LENGTH = 1024  # tokens replayed in one pass; a longer document is a pass of its own


def matched(
    objective: Objective, documents: Sequence[Document], steps: int
) -> Iterator[tuple[Document, torch.Tensor, torch.Tensor]]:
    """Each document with what is proposed from each row, and what of that is right: [T, steps] each.

    Its tokens must be the verifier's greedy ones.
    """
    verifier = objective.verifier
    for numbers in plan_epoch([len(document.token_ids) for document in documents], REPLAY_LENGTH, seed=None):
        chosen = [documents[number] for number in numbers]
        sequence = pack(chosen, dtype=verifier.embedding.dtype).to(verifier.embedding.device)
        proposed = objective.propose(sequence, steps)  # [S, K]
        matches = matching(proposed, truth=sequence.token_ids)  # [S, K]
        for document, (start, end) in zip(chosen, sequence.documents):
            yield document, proposed[start:end], matches[start:end]


def replay(objective: Objective, documents: Sequence[Document], steps: int) -> list[Drafted]:
    """Replay greedy drafting of ``steps`` tokens on documents whose tokens the verifier chose greedily."""
    return [
        _drafted(document, proposed.tolist(), matches.tolist())
        for document, proposed, matches in matched(objective, documents, steps)
    ]


def _drafted(document: Document, proposed: list[list[int]], matches: list[list[bool]]) -> Drafted:
    prompt_tokens, token_ids = document.prompt_tokens, document.token_ids.tolist()
    tokens = max(0, len(token_ids) - prompt_tokens)
    one = Replayed(document.id, document.looping, tokens, tally(matches, prompt_tokens))
    return Drafted(
        one,
        tuple(token_ids[:prompt_tokens]),
        tuple(token_ids[prompt_tokens:]),
        drafts_of(proposed, leading_matches(matches), prompt_tokens),
    )


def questioned(loaded: LoadedDraft, weights: VerifierWeights, steps: int) -> Objective:
    """The draft with its verifier's ends, or with its own where it brings them, ready to propose."""
    verifier = FrozenVerifier.of(weights, loaded.draft_ids).with_ends(loaded.ends)
    return ARCHITECTURES[loaded.kind].load().objective(loaded.draft, verifier, Teaching(steps))


def replay_checkpoint(
    model_dir: Path,
    verifier_dir: Path,
    documents: Sequence[Document],
    speculative_tokens: int | None = None,
    decode: Decode | None = None,
) -> dict[str, Any]:
    """What serving ``model_dir`` should reach on ``documents``; K is the checkpoint's unless given.

    Beside the pooled figures stand the counts of each prompt, and with ``decode`` (token ids to text) the
    answers that were drafted worst and best, word by word.

    Raises:
        StageError: the draft is of a kind that our own model does not compute.
    """
    loaded = read_checkpoint(model_dir)
    steps = speculative_tokens or loaded.speculative_tokens
    objective = questioned(loaded, load_verifier_weights(verifier_dir), steps)
    drafted = replay(objective, documents, steps)
    replayed = [one.replayed for one in drafted]
    result = {
        "speculative_tokens": steps,
        **summary(replayed, steps),
        "prompts": [_counts(one) for one in replayed],
    }
    if decode is not None:
        chosen = extremes(drafted)
        result["examples"] = {name: [spelled(one, decode) for one in some] for name, some in chosen.items()}
    return result


def _counts(one: Replayed) -> dict[str, Any]:
    return {
        "id": one.id,
        "looping": one.looping,
        "tokens": one.tokens,
        "drafts": one.tally.drafts,
        "accepted": sum(one.tally.accepted),
    }
