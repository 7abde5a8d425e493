"""EAGLE-3 drafts of SafeAILab, NVIDIA (ModelOpt, NeMo), SpecForge and TorchSpec.

They share one architecture and differ in names (``midlayer.``), in where norm flags and layer ids
stand (``eagle_config``), in what layer ids mean and in how the vocabulary map is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

import speculators
from speculators.checkpoint.eagle3 import FORMAT
from speculators.checkpoint.weights_file import reordered
from speculators.convert.account import LAYER, Fate, account, accounted, kept_or_renamed
from speculators.convert.layer_ids import Reading, read_layer_ids
from speculators.convert.plan import (
    DEFAULT_TOKENS,
    Options,
    Plan,
    decoder_layer,
    speculators_block,
    zero_biases,
)
from speculators.convert.source import Source, unfit, unplaced
from speculators.convert.source_config import with_block
from speculators.convert.vocabulary_map import DraftVocabulary, offsets, read_map, require_every_token
from speculators.errors import StageError

#: Norm flags -> what a source means that does not write them: none of these trainers had them on.
FLAGS = {"norm_before_residual": False, "norm_before_fc": False, "fc_norm": False, "norm_output": False}

IDS_KEY = "eagle_aux_hidden_state_layer_ids"

#: Tensors without which a draft is not EAGLE-3.
NEEDED = ("fc.weight", "layers.0.self_attn.q_proj.weight", "layers.0.hidden_norm.weight", "norm.weight")

#: Tensors that trainers leave in their files and no reader of the format takes.
LEFT_OUT = {
    "target_embed_tokens.weight": "the verifier's, engines share it",
    "verifier_lm_head.weight": "the verifier's, engines share it",
    "verifier_norm.weight": "the verifier's, a draft does not use it",
}


def target_name(name: str) -> str:
    """A source's tensor name in the format's spelling."""
    name = name.removeprefix("model.").removeprefix("draft_model.")
    return "layers.0." + name.removeprefix("midlayer.") if name.startswith("midlayer.") else name


def plan(source: Source, options: Options) -> Plan:
    """The converted draft.

    Raises:
        StageError: something that engines cannot compute (``fc.bias``), or that can be read two ways
            (layer ids, vocabulary map).
    """
    config, place = source.config, str(source.folder)
    nested = with_block(config, "eagle_config")
    names = require_eagle3(source, nested)
    hidden, fused = source.sized(names["fc.weight"], 2)
    target_hidden = nested.get("target_hidden_size") or hidden
    if fused % target_hidden:
        raise unfit(place, f"fc reads {fused} columns, no multiple of target_hidden_size {target_hidden}")
    layers = aux_layers(nested, options, fused // target_hidden, place)
    vocab_size = vocabulary_size(source, names, options, place)
    draft_vocab = draft_vocabulary_size(source, names, vocab_size)
    vocabulary = None
    maps = [source.load(names[name]) if name in names else None for name in ("d2t", "t2d")]
    if draft_vocab != vocab_size:
        vocabulary = read_map(maps[0], maps[1], vocab_size, place, draft_vocab)
    elif maps[0] is not None:
        require_every_token(maps[0], vocab_size, place)
    flags, flag_reasons = norm_flags(nested, names, options, place)
    layer, reasons = decoder_layer(
        source,
        "qwen3" if "layers.0.self_attn.q_norm.weight" in names else "llama",
        vocab_size,
        options,
        names,
    )
    if layer["model_type"] == "llama" and len(layers.ids) != 3:
        layer["num_aux_hidden_states"] = len(layers.ids)
    document = {
        "architectures": ["Eagle3DraftModel"],
        "speculators_model_type": "eagle3",
        "speculators_version": speculators.__version__,
        "draft_vocab_size": draft_vocab,
        "target_hidden_size": target_hidden,
        IDS_KEY: list(layers.ids),
        **flags,
        "embed_requires_grad": False,
        "tie_word_embeddings": False,
        "speculators_config": speculators_block(
            "eagle3", options.speculative_tokens or DEFAULT_TOKENS, options
        ),
        "transformer_layer_config": layer,
    }
    reasons |= {
        "draft_vocab_size": "rows of the head, or the verifier's where it is shared",
        "target_hidden_size": "the draft's own width",
        "embed_requires_grad": "the embedding is taken as it is stored",
        f"{LAYER}num_aux_hidden_states": "as many layers as fc reads",
    }
    pieces, tensor_fates = tensors(source, names, vocabulary, vocab_size)
    made, more = zero_biases(FORMAT.tensors(document), pieces)
    tensor_fates += more
    return Plan(
        document,
        pieces | made,
        account(config, document, reasons, {**flag_reasons, IDS_KEY: layers.by}),
        accounted(source.tensors, tensor_fates, LEFT_OUT, "no reader of the format has a place for it"),
    )


def require_eagle3(source: Source, nested: Mapping[str, Any]) -> dict[str, str]:
    """The source's tensor names by the format's, of a draft that engines can compute.

    Raises:
        StageError: it is not EAGLE-3, or of a variant that they do not compute.
    """
    place = str(source.folder)
    names = {target_name(name): name for name in source.tensors}
    if len(names) != len(source.tensors):
        raise unfit(place, "two tensors mean the same after renaming")
    if missing := [name for name in NEEDED if name not in names]:
        raise unfit(place, f"no tensor {missing[0]}: not an EAGLE-3 draft")
    if nested.get("use_aux_hidden_state") is False:
        raise unplaced(source, "use_aux_hidden_state false (it reads the last layer only)")
    refuse_bias(source, names)
    return names


def refuse_bias(source: Source, names: Mapping[str, str]) -> None:
    """``fc.bias`` is dropped by engines without a word: that changes nothing only if it is zero."""
    if "fc.bias" in names and bool(source.load(names["fc.bias"]).any()):
        raise StageError(
            f"{source.folder}: fc.bias is not zero, and vLLM adds no bias after fc",
            hint="every token would differ from the trained draft's; it cannot be converted without loss",
            rule="fc-bias",
        )


def aux_layers(nested: Mapping[str, Any], options: Options, count: int, place: str) -> Reading:
    """The states that the draft reads, in this project's convention."""
    if options.aux_layers is not None:
        reading = Reading(options.aux_layers, "as given")
    else:
        reading = read_layer_ids(nested.get(IDS_KEY), options.depth, count, place)
    if len(reading.ids) != count:
        raise StageError(
            f"{place}: {len(reading.ids)} layer ids {list(reading.ids)}, but fc reads {count} states",
            hint="name as many layers as fc reads: --aux-layers",
            rule="layer-ids",
        )
    if list(reading.ids) != sorted(set(reading.ids)):
        raise StageError(
            f"{place}: layer ids {list(reading.ids)} do not ascend, and engines feed them ascending",
            hint="the columns of fc would meet other layers; ask whoever trained it for their order",
            rule="layer-ids",
        )
    return reading


def vocabulary_size(source: Source, names: Mapping[str, str], options: Options, place: str) -> int:
    """The verifier's vocabulary: the width that the draft's map and embedding were made for."""
    dimensions = {"t2d": 1, "embed_tokens.weight": 2}
    stored = {
        name: source.sized(names[name], count)[0] for name, count in dimensions.items() if name in names
    }
    said = options.vocab_size or source.config.get("vocab_size")
    sizes = set(stored.values()) | ({said} if said else set())
    if len(sizes) != 1:
        found = ", ".join(f"{name} {size}" for name, size in {**stored, "config": said}.items())
        raise StageError(
            f"{place}: the verifier's vocabulary is not clear: {found}",
            hint="name the verifier that the draft was trained for: --verifier",
            rule="vocabulary-size",
        )
    return int(sizes.pop())


def draft_vocabulary_size(source: Source, names: Mapping[str, str], vocab_size: int) -> int:
    """Tokens that the draft speaks: its head's rows, or those of the map where the head is missing."""
    dimensions = {"lm_head.weight": 2, "d2t": 1}
    rows = [source.sized(names[name], count)[0] for name, count in dimensions.items() if name in names]
    return rows[0] if rows else vocab_size


def norm_flags(
    nested: Mapping[str, Any], names: Mapping[str, str], options: Options, place: str
) -> tuple[dict[str, bool], dict[str, str]]:
    """All four flags, as given, as the source says, as its tensors show, or off; and by what."""
    shown = FORMAT.shown_flags(names)
    flags, reasons = {}, {}
    for flag, default in FLAGS.items():
        if flag in options.flags:
            value, by = options.flags[flag], "as given"
        elif nested.get(flag) is not None:
            value, by = nested[flag], "as the source says"
        elif flag in shown:
            value, by = shown[flag], "its tensor is there" if shown[flag] else "no tensor"
        else:
            value, by = default, "not written: these trainers leave it off"
        if value != shown.get(flag, value):
            raise StageError(
                f"{place}: {flag} is {value}, but its tensor is {'there' if shown[flag] else 'missing'}",
                hint="the flag and the tensors come from different drafts",
                rule="norm-flags",
            )
        flags[flag], reasons[flag] = value, by
    return flags, reasons


def tensors(
    source: Source, names: Mapping[str, str], vocabulary: DraftVocabulary | None, vocab_size: int
) -> tuple[dict[str, Any], list[Fate]]:
    """The target's tensors; only map and reordered head are made anew."""
    pieces: dict[str, Any] = {}
    fates: list[Fate] = []
    for target, name in names.items():
        if target in LEFT_OUT or target in ("d2t", "t2d", "fc.bias") or "rotary_emb" in target:
            continue
        pieces[target] = source.tensors[name]
        fates.append(kept_or_renamed(name, target))
    if "fc.bias" in names:
        fates.append(Fate(names["fc.bias"], "dropped", "", "all zero"))
    if vocabulary is None:
        fates += [
            Fate(names[name], "dropped", "", "the draft says every token of its verifier")
            for name in ("d2t", "t2d")
            if name in names
        ]
        return pieces, fates
    stored = source.load(names["d2t"]) if "d2t" in names else None
    pieces["d2t"] = offsets(vocabulary)
    same = stored is not None and torch.equal(stored.to(torch.int64), pieces["d2t"])
    fates.append(Fate(names.get("d2t", "d2t"), "kept" if same else "derived", "d2t", vocabulary.by))
    pieces["t2d"] = torch.zeros(vocab_size, dtype=torch.bool)  # [V]
    pieces["t2d"][vocabulary.ids] = True
    fates.append(Fate(names.get("t2d", "t2d"), "kept" if "t2d" in names else "derived", "t2d"))
    if vocabulary.order is not None:
        pieces["lm_head.weight"] = reordered(
            source.tensors[names["lm_head.weight"]], vocabulary.order.tolist()
        )
        fates = [fate for fate in fates if fate.name != names["lm_head.weight"]]
        fates.append(
            Fate(names["lm_head.weight"], "derived", "lm_head.weight", "rows in ascending order of tokens")
        )
    return pieces, fates
