"""How EAGLE-3 drafts are stored; vLLM: ``model_executor/models/{llama,qwen3}_eagle3.py``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from speculators.checkpoint.format import Document, Format
from speculators.checkpoint.records import Eagle3SpeculatorConfig
from speculators.checkpoint.shape import DraftConfig, aux_layers_fault
from speculators.checkpoint.tensors import Layout, Shape, layer_shapes, shared_ends, target_width, within


@dataclass(frozen=True, kw_only=True)
class Eagle3Config(DraftConfig):
    """The four norm flags are those of the checkpoint format:

    * ``norm_before_residual``  layer 0's residual branch starts from the normed state, not the raw
    * ``norm_before_fc``        one RMSNorm (``input_norm``) over the concatenated aux states
    * ``fc_norm``               instead, one RMSNorm for each aux state
    * ``norm_output``           the state fed to the next step is taken after the final norm
    """

    norm_before_residual: bool = False
    norm_before_fc: bool = True
    fc_norm: bool = False
    norm_output: bool = False

    def faults(self) -> dict[str, bool]:
        both = {"norm_before_fc and fc_norm exclude each other": self.norm_before_fc and self.fc_norm}
        return super().faults() | aux_layers_fault(self) | both


def tensors(document: Document) -> Layout:
    """The tensors that ``config.json`` calls for."""
    layer = document["transformer_layer_config"]
    hidden, target = layer["hidden_size"], target_width(document)
    aux = len(document["eagle_aux_hidden_state_layer_ids"])
    required: dict[str, Shape] = {"fc.weight": (hidden, aux * target), "norm.weight": (hidden,)}
    optional: dict[str, Shape] = {}
    if document.get("norm_before_fc"):
        required["input_norm.weight"] = (aux * target,)
    if document.get("fc_norm"):
        required |= {f"fc_norm.{index}.weight": (target,) for index in range(aux)}
    for index in range(layer["num_hidden_layers"]):
        # vLLM builds hidden_norm in every layer but applies it in the first only.
        (required if index == 0 else optional)[f"layers.{index}.hidden_norm.weight"] = (hidden,)
        required |= within(index, layer_shapes(layer, 2 * hidden if index == 0 else hidden))
    ends = shared_ends(document)
    return Layout(required | ends.required, optional | ends.optional)


def told_by(shapes: Mapping[str, Shape]) -> bool:
    """The first layer norms the fed-back state apart from the token; P-EAGLE's does too."""
    return "layers.0.hidden_norm.weight" in shapes and "mask_hidden" not in shapes


FORMAT = Format(
    record=Eagle3SpeculatorConfig,
    label="EAGLE-3",
    config=Eagle3Config,
    family="llama",
    families=("llama", "qwen3"),
    tensors=tensors,
    serve={"method": "eagle3"},
    layers_key="eagle_aux_hidden_state_layer_ids",
    layers_assumed=True,
    # transformers_utils/configs/speculators/algos.py, update_eagle3
    flags=("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output"),
    flag_tensors={"norm_before_fc": "input_norm.", "fc_norm": "fc_norm."},
    told_by=told_by,
)
