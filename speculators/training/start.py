"""What a training starts from: random weights, or a published draft that is trained further.

A draft trained further keeps what its weights were made for: vocabulary, layers, norms, RoPE, and the
embedding and head that it reads and speaks through, where they are not its verifier's.  These are not
trained, like a verifier's, but a draft with others would start as another function than was published.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from speculators.checkpoint.config import CONFIG_NAME
from speculators.checkpoint.read import LoadedDraft, read_checkpoint
from speculators.checkpoint.shape import OF_VERIFIER, DraftConfig
from speculators.checkpoint.tensors import EMBED_TOKENS, LM_HEAD
from speculators.documents import file_digest
from speculators.errors import StageError
from speculators.training.architectures import ARCHITECTURES
from speculators.training.verifier import FrozenVerifier

#: What a published draft decides by itself; a recipe has no word for it.
INHERITED = (
    "rope_theta", "rope_scaling", "sliding_window", "max_position_embeddings", "rms_norm_eps",
    "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
)  # fmt: skip
#: Half types round; anything beyond that is another matrix.
ENDS_BOUND = 1e-2


class Start(NamedTuple):
    """``loaded`` and the ``digest`` of its weights are None where a training starts from random ones."""

    config: DraftConfig
    loaded: LoadedDraft | None = None
    digest: str | None = None

    @property
    def name(self) -> str:
        """What the draft is before its first step."""
        return "untrained" if self.loaded is None else "as published"


def find_start(folder: Path | None, wanted: DraftConfig, kind: str, verifier_layers: int) -> Start:
    """The draft in ``folder``, or the ``wanted`` one of random weights where there is none.

    ``wanted``: what recipe and verifier ask for, of which ``kind``.

    Raises:
        StageError: the draft is of another kind or shape; the message names recipe and config.
    """
    if folder is None:
        return Start(wanted)
    place = folder / CONFIG_NAME
    loaded = read_checkpoint(folder, verifier_layers=verifier_layers)
    stored_as = ARCHITECTURES[kind].format.stored_as
    if loaded.kind != stored_as:
        raise _conflict(
            f"algorithm.kind is {kind!r}, {place} has speculators_model_type {loaded.kind!r}",
            "leave training.init_from out to start anew, or name a draft of the recipe's kind",
        )
    config: DraftConfig = loaded.draft.config
    names = [field.name for field in fields(wanted) if field.name not in INHERITED]
    differing = [name for name in names if getattr(wanted, name) != getattr(config, name)]
    if differing:
        raise _conflict(
            "; ".join(
                f"recipe and verifier ask for {name} {getattr(wanted, name)}, "
                f"{place} has {getattr(config, name)}"
                for name in differing
            ),
            "name a draft of this verifier, or leave training.init_from out to start anew"
            if set(differing) & set(OF_VERIFIER)
            else "leave the recipe's value out to inherit the draft's, or training.init_from to start anew",
        )
    return Start(config, loaded, file_digest(next(folder.glob("*.safetensors"))))


def own_ends(loaded: LoadedDraft, verifier: FrozenVerifier) -> dict[str, torch.Tensor]:
    """Head and embedding that are the draft's own, by checkpoint name: other than its verifier's.

    Those it shares are left out, and those that it trains itself.
    """
    trained = {name for name, _ in loaded.draft.named_parameters()}
    lent = {LM_HEAD: verifier.draft_head, EMBED_TOKENS: verifier.embedding}
    return {
        name: stored
        for name, stored in loaded.ends.items()
        if name not in trained and distance(stored, lent[name]) > ENDS_BOUND
    }


def distance(stored: torch.Tensor, expected: torch.Tensor) -> float:
    """How far ``stored`` is from ``expected``, of its norm."""
    reference = expected.float().cpu()
    return float((stored.float() - reference).norm() / reference.norm())


def load_into(draft: nn.Module, loaded: LoadedDraft) -> None:
    """Give ``draft`` the published weights."""
    held = draft.state_dict()
    with torch.no_grad():
        for name, tensor in loaded.draft.state_dict().items():
            held[name].copy_(tensor)


def _conflict(differences: str, hint: str) -> StageError:
    return StageError(f"training.init_from: {differences}", hint=hint, rule="init-from")
