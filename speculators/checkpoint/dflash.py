"""How DFlash drafts are stored; vLLM: ``model_executor/models/qwen3_dflash.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from speculators.checkpoint.check import Check
from speculators.checkpoint.format import Document, Format
from speculators.checkpoint.records import DFlashSpeculatorConfig
from speculators.checkpoint.shape import SLIDING, DraftConfig, aux_layers_fault, mask_token_fault
from speculators.checkpoint.tensors import (
    LM_HEAD,
    Layout,
    Shape,
    layer_shapes,
    shared_ends,
    target_width,
    within,
)

if TYPE_CHECKING:
    import torch

Config = TypeVar("Config", bound="DFlashConfig")


@dataclass(frozen=True, kw_only=True)
class DFlashConfig(DraftConfig):
    """``mask_token_id``: whose embedding stands for a token that is not known yet.

    ``block_size``: the known token and the masks behind it, which are drafted in one pass and see
    each other: a block of another size is another task.
    """

    mask_token_id: int
    block_size: int

    def faults(self) -> dict[str, bool]:
        small = {"a block needs the known token and at least one mask": self.block_size < 2}
        return super().faults() | aux_layers_fault(self) | mask_token_fault(self, self.mask_token_id) | small

    @classmethod
    def for_verifier(cls: type[Config], facts: Mapping[str, Any], algorithm: Mapping[str, Any]) -> Config:
        block = {"block_size": algorithm["speculative_tokens"] + 1}
        return super().for_verifier(facts, {**algorithm, **block})


def tensors(document: Document) -> Layout:
    """The tensors that ``config.json`` calls for."""
    layer = document["transformer_layer_config"]
    hidden, aux = layer["hidden_size"], len(document["aux_hidden_state_layer_ids"])
    required: dict[str, Shape] = {
        "fc.weight": (hidden, aux * target_width(document)),
        "hidden_norm.weight": (hidden,),
        "norm.weight": (hidden,),
    }
    for index in range(layer["num_hidden_layers"]):
        required |= within(index, layer_shapes(layer, hidden))
        if layer.get("attention_bias"):  # vLLM's DFlash layer is not Qwen3's in this
            required[f"layers.{index}.self_attn.o_proj.bias"] = (hidden,)
    ends = shared_ends(document)
    return Layout(required | ends.required, ends.optional)


def checks(document: Document, tensor: Callable[[str], torch.Tensor]) -> Iterator[Check]:
    """Whether vLLM computes what was trained, and its CPU build too.

    The format's first writer trains layers without a window on whole blocks whatever
    ``sliding_window_non_causal`` says; vLLM reads it for every layer (``algos.py``, update_dflash).
    On a CPU ``ops.rms_norm`` takes one row of weights, but ``qwen3_dflash.py`` (``_normalize_context_k``)
    hands it one for each layer: every layer's context keys are scaled as the first layer's.
    """
    layer = document["transformer_layer_config"]
    count = layer["num_hidden_layers"]
    whole = any(kind != SLIDING for kind in layer.get("layer_types") or [""])
    causal = whole and document.get("sliding_window_non_causal") is False
    detail = "sliding_window_non_causal is false, and layers without a window are causal too in vLLM"
    yield Check("layers without a window", not causal, detail if causal else "read one way", "warning")
    first, *others = (tensor(f"layers.{index}.self_attn.k_norm.weight") for index in range(count))
    unlike = [index for index, gain in enumerate(others, start=1) if not bool((gain == first).all())]
    detail = f"layers {unlike} have others than layer 0, whose gains vLLM's CPU build applies to all"
    yield Check("key norms on CPU", not unlike, detail if unlike else "equal in all layers", "warning")


def told_by(shapes: Mapping[str, Shape]) -> bool:
    """One norm of the fused states, before all layers."""
    return "hidden_norm.weight" in shapes


FORMAT = Format(
    record=DFlashSpeculatorConfig,
    label="DFlash",
    config=DFlashConfig,
    family="qwen3",
    families=("qwen3",),
    tensors=tensors,
    serve={"method": "dflash"},
    layers_key="aux_hidden_state_layer_ids",
    # transformers_utils/configs/speculators/algos.py, update_dflash.  Unless sliding_window_non_causal
    # is true, vLLM makes every layer causal, those with full attention too.
    flags=("sample_from_anchor", "sliding_window_non_causal"),
    numbers=("mask_token_id", "block_size"),
    fixed={"sample_from_anchor": False, "sliding_window_non_causal": True},
    copies=(LM_HEAD,),
    windowed=False,
    checks=checks,
    at_once=True,
    told_by=told_by,
    kin=("dflash2", "dspark", "xpress"),
)
