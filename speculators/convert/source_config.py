"""A stranger's ``config.json``, looked through before anything is reckoned with it.

Layouts say the same things in different blocks, and nobody else checks them: a list where a number is meant
would end somewhere in the middle of a plan, or in a draft that no engine loads.  What is null is unsaid.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from speculators.checkpoint.config_checks import strange_sizes
from speculators.checkpoint.rope import ORIGINAL, rope_parameters
from speculators.checkpoint.verifier_layout import TEXT_CONFIGS, text_config, verifier_text
from speculators.errors import StageError

#: What only drafts' configs have, in the speculators format and in others.
DRAFT_KEYS = {
    "speculators_config", "speculators_model_type", "draft_vocab_size", "eagle_config", "dflash_config",
    "eagle_aux_hidden_state_layer_ids", "eagle_architecture_config", "parallel_draft_step",
}  # fmt: skip
#: How classes of drafts are named; NVIDIA's Eagle 2.5 is a language model that sees.
DRAFT_CLASS = re.compile(
    r"Eagle3|Eagle(Llama|Mistral|MiniCPM|DeepSeek)|ForCausalLMEagle|DFlash|DSpark|DraftModel"
)


class Wanted(NamedTuple):
    """What a value must be, in words and as a test."""

    said: str
    holds: Callable[[Any], bool]


def is_whole(value: Any) -> bool:
    return type(value) is int


def is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def list_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(holds(one) for one in value)


def is_text(value: Any) -> bool:
    return isinstance(value, str)


NUMBER = Wanted("a finite number", is_finite)
POSITIVE = Wanted("a finite number above zero", lambda value: is_finite(value) and value > 0)
COUNT = Wanted("a whole number above zero", lambda value: is_whole(value) and value > 0)
PLACE = Wanted("a whole number, zero or more", lambda value: is_whole(value) and value >= 0)
TRUTH = Wanted("true or false", lambda value: isinstance(value, bool))
TEXT = Wanted("text", is_text)
TEXTS = Wanted("a list of texts", list_of(is_text))
NUMBERS = Wanted("a list of finite numbers", list_of(is_finite))
LAYERS = Wanted("a list of whole numbers", list_of(is_whole))
TOKENS = Wanted("a token or a list of tokens", lambda value: is_whole(value) or list_of(is_whole)(value))
BLOCK = Wanted("an object", lambda value: isinstance(value, Mapping))

BLOCKS = ("eagle_config", "dflash_config")

#: Key, in whatever block -> its value.  Sizes of modules are looked at by ``strange_sizes``.
KEYS = {
    **dict.fromkeys((*BLOCKS, *TEXT_CONFIGS, "transformer_layer_config"), BLOCK),
    **dict.fromkeys(("rope_scaling", "rope_parameters"), BLOCK),
    **dict.fromkeys(("architectures", "layer_types"), TEXTS),
    **dict.fromkeys(("model_type", "hidden_act"), TEXT),
    **dict.fromkeys(("eagle_aux_hidden_state_layer_ids", "aux_hidden_state_layer_ids"), LAYERS),
    "target_layer_ids": LAYERS,
    **dict.fromkeys(("rms_norm_eps", "rope_theta", "partial_rotary_factor"), POSITIVE),
    **dict.fromkeys(("initializer_range", "attention_dropout", "logit_scale"), NUMBER),
    **dict.fromkeys(("max_position_embeddings", ORIGINAL, "target_hidden_size", "draft_vocab_size"), COUNT),
    **dict.fromkeys(("block_size", "num_aux_hidden_states"), COUNT),
    **dict.fromkeys(("mask_token_id", "sliding_window"), PLACE),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), TOKENS),
    **dict.fromkeys(
        ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output", "use_aux_hidden_state", "causal",
         "is_causal", "mlp_bias", "attention_bias", "use_sliding_window"), TRUTH),
}  # fmt: skip

#: ``rope_type`` -> what its angles are reckoned from (transformers ``modeling_rope_utils.py``).
ROPE_NUMBERS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor", ORIGINAL),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", ORIGINAL),
    "longrope": (ORIGINAL,),
}

#: The same of lists, one number for each pair of features.
ROPE_LISTS = {"longrope": ("short_factor", "long_factor")}

#: Sizes that plans and checks take from a verifier, where it says them.
OF_VERIFIERS = ("hidden_size", "num_hidden_layers", "vocab_size")


def require_sound(config: Mapping[str, Any], place: str) -> None:
    """Refuse the config of a draft, or of a verifier with a head of its own, that says what it cannot mean.

    Raises:
        StageError: naming ``place`` and each such key.
    """
    faults = [fault for start, block in blocks(config) for fault in strange_values(start, block)]
    if not faults:
        faults = [*strange_shape(text_config(config)), *strange_rope(text_config(config))]
    if faults:
        raise strange(place, faults)


def names_a_draft(config: Mapping[str, Any]) -> bool:
    """Whether a config has keys or a class that no language model's has."""
    architectures = config.get("architectures")
    first = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    return bool(DRAFT_KEYS & config.keys()) or bool(DRAFT_CLASS.search(first))


def require_verifier(config: Mapping[str, Any], place: str) -> None:
    """Refuse a verifier's config of which something is of another type than a draft is fitted to.

    What it does not say, as configs of several modalities leave sizes to their class, is not compared.

    Raises:
        StageError: naming ``place`` and each such key, or it is a draft's config.
    """
    if names_a_draft(config):
        hint = "--verifier is the model that the draft was trained for"
        raise StageError(f"{place}: of a draft, not of a verifier", hint=hint, rule="verifier-family")
    text = verifier_text(config)
    wanted = {**dict.fromkeys(("architectures", *TEXT_CONFIGS), config), "max_position_embeddings": text}
    kept = {key: block[key] for key, block in wanted.items() if key in block}
    sizes = {key: text.get(key) for key in OF_VERIFIERS}
    if faults := [*strange_values("", kept), *strange_sizes(sizes)]:
        raise strange(place, faults)


def with_block(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The config, with what its block ``name`` says of the same keys; what is null there is unsaid."""
    block = config.get(name) or {}
    return {**config, **{key: value for key, value in block.items() if value is not None}}


def strange(place: str, faults: list[str]) -> StageError:
    """The refusal of a config."""
    return StageError(
        f"{place}: the config says {'; '.join(dict.fromkeys(faults))}",
        hint="copy or download the checkpoint again, or correct its config.json",
        rule="source-config",
    )


def blocks(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The config and the blocks in it that say something of the draft, each with how its keys begin."""
    yield "", config
    for name in (*BLOCKS, *TEXT_CONFIGS):
        if isinstance(inner := config.get(name), Mapping):
            yield f"{name}.", inner


def strange_values(start: str, block: Mapping[str, Any]) -> Iterator[str]:
    """Values of one block that are not what their keys mean."""
    for key, wanted in KEYS.items():
        if (value := block.get(key)) is not None and not wanted.holds(value):
            yield f"{start}{key} {reprlib.repr(value)}, not {wanted.said}"
    yield from (f"{start}{fault}" for fault in strange_sizes(block))


def strange_shape(text: Mapping[str, Any]) -> Iterator[str]:
    """Sizes, each one plausible, that make no attention together."""
    heads, dim = text.get("num_attention_heads"), head_dim(text)
    if heads is None:
        return
    key_heads = text.get("num_key_value_heads") or heads
    if heads % key_heads:
        yield f"num_attention_heads {heads}, not a multiple of num_key_value_heads {key_heads}"
    if dim is not None and (dim % 2 or not dim):
        yield f"head_dim {dim}, and RoPE turns pairs"


def head_dim(text: Mapping[str, Any]) -> int | None:
    """Features of one head, as readers reckon them where they are not written; None where nothing tells."""
    heads, hidden = text.get("num_attention_heads"), text.get("hidden_size")
    return text.get("head_dim") or (hidden // heads if heads and hidden else None)


def strange_rope(text: Mapping[str, Any]) -> Iterator[str]:
    """A rotary embedding of no known type, or without what it is reckoned from."""
    rope = rope_parameters(text)
    kind = rope["rope_type"]
    if not isinstance(kind, str) or kind not in ROPE_NUMBERS:
        yield f"rope_type {reprlib.repr(kind)}, known: {', '.join(ROPE_NUMBERS)}"
        return
    wanted = {
        **dict.fromkeys((key for key, value in rope.items() if not isinstance(value, bool)), NUMBER),
        **{key: NUMBERS for key, value in rope.items() if isinstance(value, list)},
        **dict.fromkeys(("rope_theta", *ROPE_NUMBERS[kind]), POSITIVE),
        **dict.fromkeys(ROPE_LISTS.get(kind, ()), NUMBERS),
        "rope_type": TEXT,
    }
    for key, what in wanted.items():
        value = rope.get(key)
        if not what.holds(value) and (value is not None or what in (POSITIVE, NUMBERS)):
            yield f"{key} {reprlib.repr(value)} of its {kind} RoPE, not {what.said}"
    part = rope.get("partial_rotary_factor")
    part = 1.0 if part is None else part
    if not POSITIVE.holds(part) or part > 1:
        yield f"partial_rotary_factor {reprlib.repr(part)}, not a part of one"
        return
    for key in ROPE_LISTS.get(kind, ()):
        pairs = int((head_dim(text) or 0) * part) // 2
        if NUMBERS.holds(rope.get(key)) and len(rope[key]) != pairs:
            yield f"{key} of {len(rope[key])} numbers, and a head turns {pairs} pairs"
