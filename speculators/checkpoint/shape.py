"""The draft's shape: what recipe, checkpoint and model must agree on.

Kept apart from the models, so that a checkpoint's config can be read and written where there is no
torch.  This is the part that all architectures share; each adds its own in a module of this room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from speculators.errors import RecipeError

#: ``rope_type`` values whose angles ``models.rope`` computes.
ROPE_KINDS = ("default", "linear", "llama3", "yarn")

#: What every draft shares with the verifier that it was made for.
OF_VERIFIER = ("hidden_size", "vocab_size")

SLIDING = "sliding_attention"  # of ``layer_types``: a row sees a window only

Config = TypeVar("Config", bound="DraftConfig")


@dataclass(frozen=True, kw_only=True)
class DraftConfig:
    """Widths, depth and vocabulary of a draft.

    ``aux_layers``: verifier layers whose states the draft reads; id k = residual stream after k
    decoder layers, ascending.  A draft that reads the last layer only has none.
    ``draft_vocab_size`` <= ``vocab_size`` (the verifier's).
    ``rope_scaling``: what ``rope_parameters`` holds besides the base, None for plain RoPE.
    ``sliding_window``: tokens that a row may see, itself included; None for all before it.
    """

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    layers: int
    vocab_size: int
    draft_vocab_size: int
    aux_layers: tuple[int, ...] = ()
    rope_scaling: Mapping[str, Any] | None = None
    sliding_window: int | None = None

    @property
    def rope_parameters(self) -> dict[str, Any]:
        """The checkpoint format's ``rope_parameters``, kind and base always named."""
        return {"rope_type": "default", "rope_theta": self.rope_theta, **(self.rope_scaling or {})}

    def __post_init__(self) -> None:
        if broken := [message for message, hit in self.faults().items() if hit]:
            raise RecipeError(
                "algorithm: " + "; ".join(broken),
                hint="correct the recipe's algorithm block",
                rule="draft-shape",
            )

    def faults(self) -> dict[str, bool]:
        """What makes a shape impossible, and whether it is so here."""
        ids = list(self.aux_layers)
        return {
            "aux_layers must ascend and be distinct": ids != sorted(set(ids)),
            "a draft needs at least one layer": self.layers < 1,
            "heads must be a multiple of key-value heads": self.num_attention_heads % self.num_key_value_heads
            != 0,
            "head_dim must be even, RoPE turns pairs": self.head_dim % 2 != 0,
            "a sliding window holds at least one token": (self.sliding_window or 1) < 1,
            "the draft vocabulary is larger than the verifier's": self.draft_vocab_size > self.vocab_size,
        }

    @classmethod
    def for_verifier(cls: type[Config], facts: Mapping[str, Any], algorithm: Mapping[str, Any]) -> Config:
        """A draft whose layers copy the verifier's widths.

        ``facts``: of the verifier stage; ``algorithm``: block of the recipe, where each architecture's
        own values stand under their own names.
        RoPE is unscaled with the verifier's base: drafts look back over short spans, and the same
        rule is written to the checkpoint, so that training and serving agree.  Scaled RoPE and
        sliding windows come from checkpoints that are trained further.
        """
        own = {field.name for field in fields(cls)} - {field.name for field in fields(DraftConfig)}
        return cls(
            hidden_size=facts["hidden_size"],
            intermediate_size=facts["intermediate_size"],
            num_attention_heads=facts["num_attention_heads"],
            num_key_value_heads=facts["num_key_value_heads"],
            head_dim=facts["head_dim"],
            rms_norm_eps=facts["rms_norm_eps"],
            rope_theta=float((facts["rope_parameters"] or {}).get("rope_theta", 10000.0)),
            max_position_embeddings=facts["max_position_embeddings"],
            layers=algorithm["layers"],
            vocab_size=facts["vocab_size"],
            draft_vocab_size=algorithm.get("draft_vocabulary") or facts["vocab_size"],
            aux_layers=tuple(algorithm.get("aux_layers", ())),
            **{name: algorithm[name] for name in own if name in algorithm},
        )


def from_json(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """The config record of ``kind`` whose fields went through JSON."""
    return kind(**{**values, "aux_layers": tuple(values["aux_layers"])})


def aux_layers_fault(config: DraftConfig) -> dict[str, bool]:
    """A fault of architectures that read auxiliary layers."""
    return {"aux_layers must name at least one layer": not config.aux_layers}


def mask_token_fault(config: DraftConfig, mask_token_id: int) -> dict[str, bool]:
    """A fault of architectures that draft in parallel from a mask token."""
    return {"mask_token_id must be a token of the verifier": not 0 <= mask_token_id < config.vocab_size}
