"""How EAGLE drafts (and HASS's, which are trained otherwise) are stored.

vLLM's reader of the speculators format does not know them (``transformers_utils/configs/speculators/
algos.py``).  It loads a plain Llama config by ``method: eagle``
(``model_executor/models/llama_eagle.py``), so the layer's keys stand at the top level.  The
``speculators_*`` blocks stand beside them: readers of Llama configs pass over what they do not know,
while ``vllm serve DIR`` finds method and verifier there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from speculators.checkpoint.format import Document, Format
from speculators.checkpoint.records import EagleSpeculatorConfig
from speculators.checkpoint.shape import DraftConfig
from speculators.checkpoint.tensors import EMBED_TOKENS, Layout, Shape, layer_shapes, within


@dataclass(frozen=True, kw_only=True)
class EagleConfig(DraftConfig):
    """Reads the last layer's normed state; says every token of its verifier, by the verifier's head."""

    def faults(self) -> dict[str, bool]:
        return super().faults() | {
            "EAGLE reads the last layer only": bool(self.aux_layers),
            "EAGLE speaks the verifier's whole vocabulary": self.draft_vocab_size != self.vocab_size,
        }


def tensors(document: Document) -> Layout:
    """The tensors that vLLM's class has: no norm before the first layer, none at the end, no head.

    An absent embedding is shared from the verifier, as the head always is.
    """
    layer = document["transformer_layer_config"]
    hidden = layer["hidden_size"]
    required: dict[str, Shape] = {"fc.weight": (hidden, 2 * hidden)}
    for index in range(layer["num_hidden_layers"]):
        required |= within(index, layer_shapes(layer, hidden))
    del required["layers.0.input_layernorm.weight"]
    return Layout(required, {EMBED_TOKENS: (layer["vocab_size"], hidden)})


def told_by(shapes: Mapping[str, Shape]) -> bool:
    """A token and one state are fused, and neither is normed."""
    if "fc.weight" not in shapes or any(name.endswith("hidden_norm.weight") for name in shapes):
        return False
    hidden, *fused = shapes["fc.weight"]
    return fused == [2 * hidden] and "mask_hidden" not in shapes


FORMAT = Format(
    record=EagleSpeculatorConfig,
    label="EAGLE",
    config=EagleConfig,
    family="llama",
    families=("llama",),
    tensors=tensors,
    serve={"method": "eagle"},
    copies=(),
    flat=True,
    told_by=told_by,
)
