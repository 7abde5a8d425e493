"""Checks of a checkpoint's ``config.json``: what vLLM reads from it, and what it silently assumes."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from speculators.checkpoint.check import Check
from speculators.checkpoint.config import DEFAULT_AUX_LAYERS, compared_format, counts_aux_layers
from speculators.checkpoint.format import Format
from speculators.checkpoint.records import CONFIGS
from speculators.checkpoint.tensors import target_width

# vLLM 0.32, v1/attention/backends/cpu_attn.py: other head sizes cannot be served on a CPU.
CPU_HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)

# Without these keys a reader falls back to a default that need not be the trained value.
LAYER_KEYS = (
    "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "rms_norm_eps", "vocab_size", "max_position_embeddings",
)  # fmt: skip


#: Sizes that modules are counted and built by, and what none exceeds: a stranger's config may ask for more
#: names than fit into memory.
SIZES = {
    "num_hidden_layers": 1 << 10, "hidden_size": 1 << 20, "intermediate_size": 1 << 22, "head_dim": 1 << 14,
    "num_attention_heads": 1 << 14, "num_key_value_heads": 1 << 14, "vocab_size": 1 << 26,
}  # fmt: skip


def strange_sizes(layer: Mapping[str, Any]) -> list[str]:
    """What a decoder's config says of ``SIZES`` that is none."""
    said = {key: layer[key] for key in SIZES if layer.get(key) is not None}
    return [
        f"{key} {value!r}"
        for key, value in said.items()
        if type(value) is not int or not 0 < value <= SIZES[key]
    ]


#: Kinds of the format that vLLM 0.32 has no reader for (``transformers_utils/configs/speculators/algos.py``),
#: and how they are used all the same.
NOT_SERVED = {
    "mtp": "served inside its verifier only: speculators convert DIR --stitch --verifier MODEL --to NEW",
    "xpress": "no released engine serves it",
}


def config_checks(document: Mapping[str, Any]) -> Iterator[Check]:
    """What vLLM's reader and model classes take from ``config.json``; little of kinds unlike ours."""
    kind, known = document.get("speculators_model_type"), compared_format(document)
    named = isinstance(kind, str) and kind in CONFIGS
    names = ", ".join(map(repr, CONFIGS))
    yield Check("algorithm", named, f"speculators_model_type is {kind!r}, known: {names}")
    if not named:
        return
    yield Check(
        "engine serves the kind", kind not in NOT_SERVED, NOT_SERVED.get(str(kind), str(kind)), "warning"
    )
    if known is None:
        return
    yield from recognition_checks(document, known)
    yield proposal_check(document.get("speculators_config"))
    unwritten = [flag for flag in known.flags if not isinstance(document.get(flag), bool)]
    yield Check("flags explicit", not unwritten, ", ".join(unwritten) or f"all {len(known.flags)} written")
    both = bool(document.get("norm_before_fc") and document.get("fc_norm"))
    yield Check("one norm before fc", not both, "norm_before_fc and fc_norm" if both else "at most one")
    layer = document.get("transformer_layer_config")
    if not isinstance(layer, dict):
        yield Check("layer config", False, "transformer_layer_config is missing")
        return
    ids = document.get(known.layers_key) if known.layers_key else []
    # vLLM sorts and de-duplicates, so any other order would be fed in an order nobody trained with.
    ascending = isinstance(ids, list) and ids == sorted(set(ids)) and (not ids or ids[0] >= 0)
    named = bool(ids) or known.layers_key is None
    yield Check("aux layers ascend", ascending and named, f"{known.layers_key or 'aux layers'} is {ids}")
    yield from layer_checks(layer, known)
    if strange_sizes(layer):  # nothing can be reckoned with them
        return
    if counts_aux_layers(layer.get("model_type"), known):
        seen, aux = layer.get("num_aux_hidden_states", DEFAULT_AUX_LAYERS), len(ids or ())
        yield Check("aux count", seen == aux, f"vLLM will size fc for {seen} aux layers, {aux} are named")
    yield from number_checks(document, layer, known)


def recognition_checks(document: Mapping[str, Any], known: Format) -> Iterator[Check]:
    """Whether vLLM's readers see what it is."""
    name, wanted = document.get("model_type"), known.family if known.flat else None
    yield Check(
        "format recognisable",
        name == wanted and "auto_map" not in document,
        "auto_map" if "auto_map" in document else f"top-level model_type is {name!r}, must be {wanted!r}",
    )
    if known.flat:
        layer = document.get("transformer_layer_config") or {}
        unlike = sorted(key for key, value in layer.items() if document.get(key) != value)
        yield Check(
            "layer keys at the top", not unlike, ", ".join(unlike) or "as in transformer_layer_config"
        )
        first = (document.get("architectures") or [None])[0]
        detail = f"architectures begins with {first!r}, must be {known.architecture!r}"
        yield Check("architecture", first == known.architecture, detail)


def number_checks(document: Mapping[str, Any], layer: Mapping[str, Any], known: Format) -> Iterator[Check]:
    """Vocabulary, mask token and whatever else the architecture counts."""
    draft_vocab, vocab = document.get("draft_vocab_size"), layer.get("vocab_size") or 0
    fits = isinstance(draft_vocab, int) and 0 < draft_vocab <= vocab
    yield Check("draft vocabulary fits", fits, f"{draft_vocab} of {vocab}")
    for name in known.numbers:
        value = document.get(name)
        yield Check(f"{name} written", isinstance(value, int) and value >= 0, f"{name} is {value}")
    if "mask_token_id" in known.numbers:
        mask = document.get("mask_token_id")
        yield Check("mask token exists", isinstance(mask, int) and 0 <= mask < vocab, f"{mask} of {vocab}")


def proposal_check(block: Any) -> Check:
    """``speculators_config`` as far as vLLM reads it."""
    name = "proposal and verifier named"
    try:
        tokens = block["proposal_methods"][0]["speculative_tokens"]
        verifier = block["verifier"]["name_or_path"]
    except KeyError as error:
        return Check(name, False, f"speculators_config lacks {error}")
    except (IndexError, TypeError):
        wanted = "proposal_methods[0].speculative_tokens and verifier.name_or_path"
        return Check(name, False, f"speculators_config is {reprlib.repr(block)}, without {wanted}")
    ok = isinstance(tokens, int) and tokens >= 1 and isinstance(verifier, str) and bool(verifier)
    return Check(name, ok, f"{tokens} speculative tokens for {verifier}")


def layer_checks(layer: Mapping[str, Any], known: Format) -> Iterator[Check]:
    """``transformer_layer_config``: vLLM passes it on verbatim and fills in nothing."""
    absent = [key for key in LAYER_KEYS if layer.get(key) is None]
    yield Check("layer keys written", not absent, ", ".join(absent) or "all written")
    strange = strange_sizes(layer)
    yield Check("sizes plausible", not strange, ", ".join(strange) or "whole numbers in bounds")
    if strange:
        return
    family, families = layer.get("model_type"), " or ".join(known.families)
    yield Check("decoder family", family in known.families, f"model_type is {family!r}: {families}")
    yield Check("activation", layer.get("hidden_act") == "silu", f"hidden_act is {layer.get('hidden_act')!r}")
    theta = (layer.get("rope_parameters") or {}).get("rope_theta") or layer.get("rope_theta")
    # A null rope_scaling overwrites rope_parameters in transformers 5; without either the base is 10000.
    # Beside the older rope_theta it says what it means: no scaling.
    null_scaling = bool(layer.get("rope_parameters")) and layer.get("rope_scaling", 0) is None
    yield Check("RoPE written", theta is not None and not null_scaling, f"rope_theta {theta}")
    types = layer.get("layer_types")
    count = layer.get("num_hidden_layers")
    yield Check("layer types", types is None or len(types) == count, f"{types} for {count} layers")
    heads = layer.get("num_attention_heads") or 1
    dim = layer.get("head_dim") or (layer.get("hidden_size") or 0) // heads
    yield Check("head size on CPU", dim in CPU_HEAD_DIMS, f"head_dim {dim}", severity="warning")


def fit_checks(known: Format, document: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[Check]:
    """Depth, width and vocabulary of a draft against its verifier's ``facts``, as far as these say them."""
    layer, ids, target = (
        document["transformer_layer_config"],
        known.aux_layers(document),
        target_width(document),
    )
    depth, width, vocabulary = (facts.get(k) for k in ("num_hidden_layers", "hidden_size", "vocab_size"))
    if depth is not None:
        yield Check("aux layers exist", max(ids, default=0) <= depth, f"{list(ids)} of {depth} layers")
    if width is not None:
        yield Check("verifier width", target == width, f"{target} against {width}")
    if vocabulary is not None:
        same = layer["vocab_size"] == vocabulary
        yield Check("verifier vocabulary", same, f"{layer['vocab_size']} against {vocabulary}")
