"""The draft's shape: what recipe, checkpoint and model must agree on.

Kept apart from the model, so that a checkpoint's config can be read and written where there is no
torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from speculators.errors import RecipeError

#: ``rope_type`` values whose angles ``models.rope`` computes.
ROPE_KINDS = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class Eagle3Config:
    """Everything that decides the draft's shape and arithmetic.

    ``aux_layers``: verifier layers whose states the draft reads; id k = residual stream after k
    decoder layers, ascending.  ``draft_vocab_size`` <= ``vocab_size`` (the verifier's).
    The four norm flags are those of the checkpoint format:

    * ``norm_before_residual``  layer 0's residual branch starts from the normed state, not the raw
    * ``norm_before_fc``        one RMSNorm (``input_norm``) over the concatenated aux states
    * ``fc_norm``               instead, one RMSNorm for each aux state
    * ``norm_output``           the state fed to the next step is taken after the final norm

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
    aux_layers: tuple[int, ...]
    vocab_size: int
    draft_vocab_size: int
    norm_before_residual: bool = False
    norm_before_fc: bool = True
    fc_norm: bool = False
    norm_output: bool = False
    rope_scaling: Mapping[str, Any] | None = None
    sliding_window: int | None = None

    @property
    def rope_parameters(self) -> dict[str, Any]:
        """The checkpoint format's ``rope_parameters``, kind and base always named."""
        return {"rope_type": "default", "rope_theta": self.rope_theta, **(self.rope_scaling or {})}

    def __post_init__(self) -> None:
        ids = list(self.aux_layers)
        broken = {
            "aux_layers must ascend and be distinct": ids != sorted(set(ids)),
            "aux_layers must name at least one layer": not ids,
            "a draft needs at least one layer": self.layers < 1,
            "norm_before_fc and fc_norm exclude each other": self.norm_before_fc and self.fc_norm,
            "heads must be a multiple of key-value heads": self.num_attention_heads
            % self.num_key_value_heads,
            "head_dim must be even, RoPE turns pairs": self.head_dim % 2,
            "a sliding window holds at least one token": (self.sliding_window or 1) < 1,
            "the draft vocabulary is larger than the verifier's": self.draft_vocab_size > self.vocab_size,
        }
        if any(broken.values()):
            raise RecipeError(
                "algorithm: " + "; ".join(message for message, hit in broken.items() if hit),
                hint="correct the recipe's algorithm block",
                rule="draft-shape",
            )

    @classmethod
    def for_verifier(cls, facts: Mapping[str, Any], algorithm: Mapping[str, Any]) -> Eagle3Config:
        """A draft whose layers copy the verifier's widths.

        ``facts``: of the verifier stage; ``algorithm``: block of the recipe.
        RoPE is unscaled with the verifier's base: drafts look back over short spans, and the same
        rule is written to the checkpoint, so that training and serving agree.  Scaled RoPE and
        sliding windows come from checkpoints that are trained further.
        """
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
            aux_layers=tuple(algorithm["aux_layers"]),
            vocab_size=facts["vocab_size"],
            draft_vocab_size=algorithm["draft_vocabulary"],
            norm_before_residual=algorithm["norm_before_residual"],
            norm_before_fc=algorithm["norm_before_fc"],
            fc_norm=algorithm["fc_norm"],
            norm_output=algorithm["norm_output"],
        )
