"""How P-EAGLE drafts are stored: EAGLE-3's tensors and a vector that stands for unknown states.

vLLM loads them into the same class with ``parallel_drafting``
(``transformers_utils/configs/speculators/algos.py``, update_peagle).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from speculators.checkpoint import eagle3
from speculators.checkpoint.format import Document, Format
from speculators.checkpoint.records import PEagleSpeculatorConfig
from speculators.checkpoint.shape import mask_token_fault
from speculators.checkpoint.tensors import Layout, Shape, target_width


@dataclass(frozen=True, kw_only=True)
class PEagleConfig(eagle3.Eagle3Config):
    """``mask_token_id``: whose embedding a row reads whose token is not known yet.

    ``fc_norm`` and ``norm_output`` do not reach vLLM's class, and no state is fed back.
    """

    mask_token_id: int

    def faults(self) -> dict[str, bool]:
        unheard = {"P-EAGLE has neither fc_norm nor norm_output": self.fc_norm or self.norm_output}
        return super().faults() | mask_token_fault(self, self.mask_token_id) | unheard


def tensors(document: Document) -> Layout:
    """EAGLE-3's, and ``mask_hidden``: the verifier states of a token that is not known yet."""
    layout = eagle3.tensors(document)
    aux = len(document["eagle_aux_hidden_state_layer_ids"])
    return Layout(layout.required | {"mask_hidden": (1, 1, aux * target_width(document))}, layout.optional)


def told_by(shapes: Mapping[str, Shape]) -> bool:
    """EAGLE-3's first layer, with the mask or without: where that is missing, the validator says it."""
    return "mask_hidden" in shapes or eagle3.told_by(shapes)


FORMAT = Format(
    record=PEagleSpeculatorConfig,
    label="P-EAGLE",
    config=PEagleConfig,
    family="llama",
    families=("llama", "qwen3"),
    tensors=tensors,
    serve={"method": "eagle3", "parallel_drafting": True},
    layers_key="eagle_aux_hidden_state_layer_ids",
    layers_assumed=True,
    flags=("norm_before_residual", "norm_before_fc"),
    numbers=("mask_token_id",),
    at_once=True,
    flag_tensors={"norm_before_fc": "input_norm."},
    told_by=told_by,
)
