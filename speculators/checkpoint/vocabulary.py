"""The draft vocabulary: which verifier tokens a draft can say, and the maps between the two.

A small head is most of a draft's speed; the tokens it leaves out can never be accepted, so they
must be the rarest of what the verifier really generates.  Draft ids ascend with verifier ids,
therefore equal logits resolve to the same token on both sides.

A checkpoint stores ``d2t`` as *offsets*: ``verifier_id = i + d2t[i]`` (vLLM ``llama_eagle3.py``,
``compute_logits``).  Confusing them with absolute ids is the best-known silent defect.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from speculators.datagen.shards import Document
from speculators.errors import RecipeError


def token_frequencies(documents: Iterable[Document], vocab_size: int) -> torch.Tensor:
    """How often each token was generated: [V] int64, over the generated tokens only."""
    counts = torch.zeros(vocab_size, dtype=torch.int64)  # [V]
    for document in documents:
        counts += torch.bincount(document.token_ids[document.prompt_tokens :], minlength=vocab_size)
    return counts


def select_draft_ids(frequencies: torch.Tensor, size: int) -> torch.Tensor:
    """The ``size`` most frequent token ids, ascending: [Vd] int64.

    Ties go to the lower id; where fewer than ``size`` tokens occur at all, the rest are the lowest
    unused ids (the same rule: they tie at zero).

    Raises:
        RecipeError: ``size`` is below 1 or above the verifier's vocabulary.
    """
    if not 1 <= size <= len(frequencies):
        raise RecipeError(
            f"algorithm.draft_vocabulary is {size}, the verifier has {len(frequencies)} tokens",
            hint=f"choose 1..{len(frequencies)}",
            rule="draft-vocabulary",
        )
    by_count = torch.sort(frequencies, descending=True, stable=True).indices  # stable: ties by id
    return by_count[:size].sort().values


def coverage(frequencies: torch.Tensor, draft_ids: torch.Tensor) -> float:
    """The fraction of counted tokens that the draft vocabulary holds; 1.0 when nothing was counted."""
    total = int(frequencies.sum())
    return int(frequencies[draft_ids].sum()) / total if total else 1.0


def to_offsets(draft_ids: torch.Tensor) -> torch.Tensor:
    """Ascending verifier ids [Vd] -> the stored ``d2t`` [Vd] int64."""
    return draft_ids - torch.arange(len(draft_ids))


def from_offsets(d2t: torch.Tensor) -> torch.Tensor:
    """The stored ``d2t`` [Vd] -> verifier ids [Vd] int64."""
    return d2t + torch.arange(len(d2t))


def membership(draft_ids: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """The stored ``t2d``: [V] bool, true where a verifier token is in the draft vocabulary."""
    mask = torch.zeros(vocab_size, dtype=torch.bool)
    mask[draft_ids] = True
    return mask
