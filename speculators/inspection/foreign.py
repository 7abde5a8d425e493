"""A draft in another trainer's layout: what it is, and where engines read it otherwise than it was meant.

Engines load many of these as they are, so a layout is no defect.  What the converter would have to change
for the numbers to stay the same is one: an engine that loads the file as it stands changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from speculators.checkpoint.check import Check
from speculators.checkpoint.folder import read_object
from speculators.checkpoint.verifier_layout import text_config
from speculators.convert.account import DERIVED
from speculators.convert.kinds import PROMISES, Kind, detect
from speculators.convert.plan import Options, Plan
from speculators.convert.source import UNPLACED, Source, open_source
from speculators.convert.source_config import with_block
from speculators.errors import RecipeError, StageError

#: Architectures that vLLM 0.32 takes for EAGLE or EAGLE-3 (``model_executor/models/registry.py``; the
#: plain names by ``transformers_utils/configs/eagle.py``).
ENGINE_CLASSES = {
    "LlamaForCausalLM", "LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM", "Eagle3Qwen3ForCausalLM",
    "EagleLlamaForCausalLM", "EagleLlama4ForCausalLM", "Eagle3DeepseekV2ForCausalLM",
    "Eagle3DeepseekV3ForCausalLM", "Eagle3MiniMaxM2ForCausalLM", "Eagle3Qwen2_5vlForCausalLM",
    "Eagle3Qwen3vlForCausalLM", "PEagleDraftModel", "PeagleLlamaForCausalLM", "PeagleQwen3ForCausalLM",
    "Qwen3ForCausalLM", "DFlashDraftModel",
}  # fmt: skip

#: A stop of the converter, by its rule -> the check that it fails.
STOPS = {
    "layer-ids": "aux layers fit fc",
    "vocabulary-map": "vocabulary map readable",
    "fc-bias": "no unknown tensor",
    "norm-flags": "flags explicit",
    "source-tensors": "layout complete",
    "source-config": "layout complete",
    "vocabulary-size": "verifier vocabulary",
    "source-unreadable": "weights readable",
    UNPLACED: "format can say it",
}

#: Keys that engines read at the top level of a config, wherever else trainers write them; one in a block too.
TOP_KEYS = ("norm_before_residual", "fc_norm", "norm_output", "norm_before_fc", "attention_bias")
IN_BLOCK = "norm_before_fc"

LAYERS_KEY = "eagle_aux_hidden_state_layer_ids"


class Foreign(NamedTuple):
    """What was found, and the draft in the format's own terms; None where it cannot be read so."""

    checks: list[Check]
    plan: Plan | None


def read_foreign(folder: Path, verifier_dir: Path | None) -> Foreign:
    """Read the draft in ``folder``, which is not in the speculators format, as the converter would."""
    try:
        source = open_source(str(folder))
    except StageError as error:
        return Foreign([Check("weights readable", False, error.message)], None)
    flat = [name for name in source.tensors if name.endswith("fc.weight") and len(source.shape(name)) != 2]
    if flat:  # layouts are told, and layers counted, by its two sides
        detail = f"{flat[0]} {list(source.shape(flat[0]))}, not rows and columns"
        return Foreign([Check("tensor shapes", False, detail)], None)
    heads = list(head_checks(source))
    if any(not check.ok for check in heads):
        return Foreign(heads, None)
    try:
        kind, by = detect(source)
    except RecipeError as error:
        return Foreign([*heads, Check("algorithm", False, error.message)], None)
    checks = [*heads, Check("layout recognised", True, f"{kind.label}: {by}")]
    try:
        plan, told = planned(kind, source, options_for(verifier_dir))
    except StageError as error:
        name = STOPS.get(error.rule, "layout complete")
        severity = "warning" if error.rule == UNPLACED else "error"  # engines serve such drafts
        return Foreign([*checks, Check(name, False, error.message, severity)], None)
    return Foreign([*checks, *told, *as_it_stands(kind, source, plan)], plan)


def options_for(verifier_dir: Path | None) -> Options:
    """What is known of the verifier; its name plays no part."""
    return Options("verifier", {} if verifier_dir is None else read_object(verifier_dir / "config.json"))


def planned(kind: Kind, source: Source, options: Options) -> tuple[Plan, list[Check]]:
    """The converter's plan; where layer ids can be read two ways, as vLLM reads them, and a check says so.

    Raises:
        StageError: the converter stops at something else.
    """
    try:
        return kind.plan(source, options), []
    except StageError as error:
        if error.rule != "layer-id-convention":
            raise
        hidden, fused = next(source.shape(name) for name in source.tensors if name.endswith("fc.weight"))
        said = with_block(source.config, "eagle_config")
        count = fused // int(said.get("target_hidden_size") or hidden)
        ids = tuple(said.get(LAYERS_KEY) or range(1, count + 1))
        plan = kind.plan(source, replace(options, aux_layers=ids))
        return plan, [Check("layer ids can be told", False, error.message, "warning")]


def as_it_stands(kind: Kind, source: Source, plan: Plan) -> Iterator[Check]:
    """Where an engine that loads the file as it is computes something else than the converted draft."""
    architecture = str((source.config.get("architectures") or [""])[0])
    if kind.name != "mtp":
        known = architecture in ENGINE_CLASSES
        yield Check("engine knows the class", known, f"architectures begins with {architecture!r}")
        prefixed = [name for name in source.tensors if name.startswith(("model.", "draft_model."))]
        yield Check("names as engines read them", not prefixed, ", ".join(prefixed[:3]) or "no prefix")
    for fate in plan.fields:
        if fate.name.endswith(LAYERS_KEY) and "one was added" in fate.why:
            meant = f"{plan.document[LAYERS_KEY]} are meant: {fate.why}"
            yield Check("layer ids as vLLM reads them", False, meant, "warning")
    if kind.name != "mtp":
        yield from unread_checks(source, plan)
    stored = next((source.load(name) for name in source.tensors if name.split(".")[-1] == "d2t"), None)
    if stored is not None and "d2t" in plan.pieces:
        (by,) = [fate.why for fate in plan.tensors if fate.target == "d2t"]
        same = torch.equal(stored.to(torch.int64).flatten(), plan.pieces["d2t"])
        yield Check("d2t holds offsets", same, by)


def unread_checks(source: Source, plan: Plan) -> Iterator[Check]:
    """Flags that the draft has and engines do not find where they look, and biases that they look for."""
    layer = plan.document["transformer_layer_config"]
    has = {**layer, **plan.document}
    read = {**source.config, IN_BLOCK: with_block(source.config, "eagle_config").get(IN_BLOCK)}
    keys = [*TOP_KEYS, *(["mlp_bias"] if layer["model_type"] == "llama" else [])]
    unlike = [key for key in keys if key in has and bool(read.get(key)) is not has[key]]
    told = "; ".join(f"{key} is {has[key]}, and read as {bool(read.get(key))}" for key in unlike)
    yield Check("flags where engines read them", not unlike, told or "as the draft has them")
    made = [one.target for one in plan.tensors if one.fate == DERIVED and one.target.endswith("o_proj.bias")]
    yield Check("biases as engines have them", not made, ", ".join(made) or "all stored, or none")


def head_checks(source: Source) -> Iterator[Check]:
    """Whether native heads that the config promises are there: engines do not notice that they are not."""
    text: Mapping[str, Any] = text_config(source.config)
    promised = {key: text[key] for key in PROMISES if isinstance(text.get(key), int) and text[key] > 0}
    if not promised:
        return
    depth = text.get("num_hidden_layers")
    # Qwen keeps them under mtp., DeepSeek and GLM as further layers behind the last one.
    places = ("mtp.", "model.mtp", f"model.layers.{depth}.")
    there = any(name.startswith(places) for name in source.tensors)
    said = ", ".join(f"{key} {count}" for key, count in promised.items())
    yield Check("MTP head is there", there, f"config says {said}; tensors: {'there' if there else 'none'}")
