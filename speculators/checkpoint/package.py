"""A trained draft becomes a checkpoint folder: ``config.json`` and one safetensors file.

Two choices are made here.

*Embedding and head rows are written where the format has them*, although vLLM shares an absent
embedding with its verifier: other readers of the format expect both, vLLM recognises the identical
copy and frees it, and a reduced vocabulary must bring its head rows anyway (``Format.copies``).

*Trained tensors stay float32, frozen copies keep the verifier's dtype.*  vLLM casts every tensor to
the dtype it serves in, so a stored bfloat16 copy saves disk but loses bits for those who serve in
float32 (every CPU) or train on; the frozen copies have no more bits than the verifier gave them,
and only an equal copy is recognised as shared.  Trained tensors are the small part of the file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from speculators.checkpoint.config import CONFIG_NAME
from speculators.checkpoint.tensors import EMBED_TOKENS, LM_HEAD, target_width
from speculators.checkpoint.trained_as import (
    BLOCKS,
    DIGESTS,
    DTYPES,
    FUSED,
    TRAINED_AS,
    block_digests,
    digests,
    dtypes,
    trained_as,
)
from speculators.checkpoint.verifier_weights import VerifierWeights
from speculators.checkpoint.vocabulary import membership, to_offsets
from speculators.checkpoint.weights_file import WEIGHTS_NAME, write_weights
from speculators.documents import canonical_json, write_json


def assemble(
    draft: Mapping[str, torch.Tensor],
    draft_ids: torch.Tensor,
    verifier: VerifierWeights,
    copies: Collection[str] = (EMBED_TOKENS, LM_HEAD),
    own: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """All tensors of the checkpoint: trained ones, frozen copies, and the vocabulary maps if reduced.

    ``draft``: the trained state by checkpoint name; ``draft_ids`` [Vd] ascending; ``copies``: the
    format's; ``own``: an embedding or head that stands in a copy's place.
    """
    tensors = {name: tensor.float().contiguous() for name, tensor in draft.items()}
    if EMBED_TOKENS in copies:
        tensors[EMBED_TOKENS] = verifier.embedding.contiguous()  # [V, H]
    if LM_HEAD in copies:
        tensors[LM_HEAD] = verifier.head[draft_ids].contiguous()  # [Vd, H]
    tensors |= own or {}
    vocab_size = len(verifier.embedding)
    if len(draft_ids) != vocab_size:  # with the full vocabulary vLLM refuses a d2t
        tensors["d2t"] = to_offsets(draft_ids)  # [Vd] int64
        tensors["t2d"] = membership(draft_ids, vocab_size)  # [V] bool
    return tensors


def write_checkpoint(folder: Path, document: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write ``config.json`` and the one weight file into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {TRAINED_AS: trained_as(document), DIGESTS: digests(tensors), DTYPES: dtypes(tensors)}
    if FUSED in tensors:
        metadata[BLOCKS] = canonical_json(block_digests(tensors[FUSED], target_width(document)))
    write_weights(folder / WEIGHTS_NAME, tensors, metadata)
    write_json(folder / CONFIG_NAME, document)
