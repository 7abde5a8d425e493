"""A checkpoint folder becomes a draft model again, for replaying and inspecting what is served."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import nn

from speculators.checkpoint.config import CONFIG_NAME, completed, format_of, from_document
from speculators.checkpoint.dequantise import quantised_names
from speculators.checkpoint.tensors import EMBED_TOKENS, LM_HEAD, canonical_name
from speculators.checkpoint.vocabulary import from_offsets
from speculators.documents import read_json
from speculators.errors import StageError
from speculators.training.architectures import ARCHITECTURES


class LoadedDraft(NamedTuple):
    """A stored draft, ready to run.

    ``head`` and ``embedding`` are None where the checkpoint shares them with its verifier.
    """

    kind: str  # of training.architectures
    draft: nn.Module
    speculative_tokens: int
    draft_ids: torch.Tensor  # [Vd] int64, ascending
    head: torch.Tensor | None  # [Vd, H]
    embedding: torch.Tensor | None  # [V, H]

    @property
    def ends(self) -> dict[str, torch.Tensor]:
        """Head and embedding that the checkpoint stores, by their names there."""
        stored = {LM_HEAD: self.head, EMBED_TOKENS: self.embedding}
        return {name: tensor for name, tensor in stored.items() if tensor is not None}


def read_checkpoint(
    folder: Path, dtype: torch.dtype = torch.float32, verifier_layers: int | None = None
) -> LoadedDraft:
    """Load the draft in ``folder`` in ``dtype``.

    ``verifier_layers``: the verifier's depth, for a checkpoint that may leave to vLLM what it does not write.

    Raises:
        StageError: there is not exactly one weight file, a tensor is missing, or the draft is of a
            kind that our own model does not compute.
    """
    document = read_json(folder / CONFIG_NAME)
    if verifier_layers is not None:
        document, _ = completed(document, verifier_layers)
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise StageError(f"{folder}: {len(files)} safetensors files, expected one", rule="draft-weights")
    return loaded_draft(document, load_file(files[0]), dtype, str(files[0]))


def loaded_draft(
    document: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    dtype: torch.dtype = torch.float32,
    place: str = "the draft",
) -> LoadedDraft:
    """The draft that a complete config and its tensors make.

    Raises:
        StageError: a tensor is missing, or the draft is of a kind that our own model does not compute, or
            quantised.
    """
    config = from_document(document)
    tensors = {canonical_name(name): tensor for name, tensor in tensors.items()}
    if packed := quantised_names(tensors):
        raise StageError(
            f"{place}: {packed[0]}: our draft models do not compute quantised weights",
            hint="look at the draft that it was made of; engines serve this one",
            rule="draft-family",
        )
    missing = sorted(format_of(config).tensors(document).required.keys() - tensors.keys())
    if missing:
        raise StageError(f"{place}: no tensor {', '.join(missing)}", rule="draft-weights")
    kind = document["speculators_model_type"]
    draft = ARCHITECTURES[kind].load().model(config).to(dtype)
    draft.load_state_dict({name: tensors[name].to(dtype) for name in draft.state_dict()})
    reduced = config.draft_vocab_size != config.vocab_size
    head, embedding = tensors.get(LM_HEAD), tensors.get(EMBED_TOKENS)
    return LoadedDraft(
        kind=kind,
        draft=draft.eval(),
        speculative_tokens=document["speculators_config"]["proposal_methods"][0]["speculative_tokens"],
        draft_ids=from_offsets(tensors["d2t"]) if reduced else torch.arange(config.vocab_size),
        head=None if head is None else head.to(dtype),
        embedding=None if embedding is None else embedding.to(dtype),
    )
