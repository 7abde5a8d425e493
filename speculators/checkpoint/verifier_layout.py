"""Where a verifier keeps its ends, and how its logits follow from its last state.

Families differ in tensor names, in what their final norm computes and in what lies between head and
logits.  Each difference is a row of a table here, read off the model classes of transformers 5.19 and
vLLM 0.32 (``model_executor/models``).  A family that fits no row is refused: reading its norm or
its head the wrong way gives wrong targets without any error.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from speculators.errors import StageError


class EndNames(NamedTuple):
    """Module names, without their ``.weight``."""

    embedding: str
    norm: str
    head: str


#: Exact names only: by its ending alone, a vision tower's norm looks like the language model's.
LAYOUTS = (
    EndNames("model.embed_tokens", "model.norm", "lm_head"),  # Llama and most others
    EndNames("model.language_model.embed_tokens", "model.language_model.norm", "lm_head"),  # Qwen3-VL
    EndNames("language_model.model.embed_tokens", "language_model.model.norm", "language_model.lm_head"),
    EndNames("language_model.model.embed_tokens", "language_model.model.norm", "lm_head"),
    EndNames("thinker.model.embed_tokens", "thinker.model.norm", "thinker.lm_head"),  # Qwen-Omni
    EndNames("llm.model.embed_tokens", "llm.model.norm", "llm.lm_head"),  # MiniCPM-V
    EndNames("model.text_model.embed_tokens", "model.text_model.norm", "lm_head"),  # Idefics, SmolVLM
    EndNames("backbone.embeddings", "backbone.norm_f", "lm_head"),  # Nemotron-H
    EndNames("model.embeddings", "model.norm_f", "lm_head"),
    EndNames("model.embed_tokens", "model.embedding_norm", "lm_head"),  # LFM2
    EndNames("model.embed_tokens", "model.final_norm", "lm_head"),  # RecurrentGemma
    EndNames("model.embed_tokens", "model.final_layernorm", "lm_head"),  # Phi, Zamba, Falcon-H1
    EndNames("model.tok_embeddings", "model.norm", "output"),  # InternLM2
    EndNames("tok_embeddings", "norm", "output"),  # Mistral's own files
    EndNames("gpt_neox.embed_in", "gpt_neox.final_layer_norm", "embed_out"),
    EndNames("transformer.wte", "transformer.ln_f", "lm_head"),  # GPT-2, GPT-BigCode
    EndNames("transformer.word_embeddings", "transformer.ln_f", "lm_head"),  # Falcon, Bloom
    EndNames("transformer.wte", "transformer.norm_f", "lm_head"),  # MPT
)  # fmt: skip

#: Keys under which configs of several modalities keep the language model's.
TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "thinker_config")

#: Keys of a decoder's config -> what families call them that transformers renames (``attribute_map``).
OTHER_NAMES = {
    "hidden_size": ("n_embd", "d_model"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads"),
    "max_position_embeddings": ("n_positions", "max_seq_len"),
}

#: Model type -> what its published configs leave to the class (transformers 5.19).  Written within the config
#: of a whole model, a language model's says only what differs from it.
CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "intermediate_size": 9216,
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0,
    },
}  # fmt: skip

EPS_KEYS = ("rms_norm_eps", "norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")

#: Model types whose final norm multiplies by (1 + weight).
ONE_PLUS_NORMS = frozenset({
    "gemma", "gemma2", "gemma3", "gemma3_text", "minimax_m3_vl_text", "nemotron", "qwen3_5", "qwen3_5_moe",
    "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "recurrent_gemma", "rnj1", "step3p5", "step3p7",
    "vaultgemma",
})  # fmt: skip

#: Model types with a LayerNorm that stores no bias, unless they say ``rms_norm_eps``; a stored bias tells by
#: itself.
LAYER_NORMS = frozenset({"cohere", "cohere2", "cohere2_moe", "cohere_compass_text", "mpt"})

#: Model types with more than one norm and one head after the last layer.
UNLIKE = {
    "deepseek_v4": "several residual streams are mixed before its norm",
    "hy_v4": "several residual streams are mixed before its norm",
    "qwen4_exp_text": "several residual streams are mixed before its norm",
    "nanochat": "its final norm has no weight",
    "olmo": "its final norm has no weight",
}

#: Where ``logits_scaling`` multiplies; everywhere else (Granite) it divides.
MULTIPLIED_SCALING = frozenset({"hyperclovax"})


class OutputRule(NamedTuple):
    """logits = cap(scale * head(norm(state))), as far as it is numbers."""

    norm_eps: float
    centred: bool = False  # LayerNorm: the mean is taken off first
    one_plus: bool = False  # the stored norm weight is a difference from one
    logit_scale: float = 1.0
    soft_cap: float | None = None


class VerifierLayout(NamedTuple):
    """What must be read, and how it is put together."""

    embedding: str
    norm: str
    norm_bias: str | None
    head: str | None  # a module's name; None: tied to the embedding
    rule: OutputRule


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a ``config.json``, however deep it is nested; empty if it is no object."""
    for key in TEXT_CONFIGS:
        if (inner := config.get(key)) is not None:
            return text_config(inner) if isinstance(inner, Mapping) else {}
    return config


def verifier_text(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's part of a verifier's ``config.json`` by the usual names of its keys.

    With what its class fills in, but for width, depth and vocabulary: what a draft is compared by is either
    said or not compared.  What is null is unsaid.
    """
    text = {key: value for key, value in text_config(config).items() if value is not None}
    for key, others in OTHER_NAMES.items():
        for other in others:
            if other in text:
                text.setdefault(key, text[other])
    return {**class_defaults(text), **text}


def class_defaults(text: Mapping[str, Any]) -> dict[str, Any]:
    return CLASS_DEFAULTS.get(str(text.get("model_type", "")), {})


def verifier_layout(config: Mapping[str, Any], names: Collection[str], place: str) -> VerifierLayout:
    """Where the model with this ``config.json`` and these tensor ``names`` keeps its ends.

    Raises:
        StageError: naming ``place``, when an end is not among ``names`` or the family's logits are
            not ``cap(scale * head(norm(state)))``.
    """
    text = verifier_text(config)
    model_type = str(text.get("model_type", ""))
    found = end_names(names)
    norm_bias = f"{found.norm}.bias" if f"{found.norm}.bias" in names else None
    try:
        centred = model_type in LAYER_NORMS and "rms_norm_eps" not in text
        rule = output_rule(text, centred=norm_bias is not None or centred)
    except (ValueError, ZeroDivisionError) as error:
        hint = "correct the verifier's config.json, or copy or download the model again"
        raise StageError(f"{place}: config.json: {error}", hint=hint, rule="verifier-family") from None
    stored = has_module(names, found.head)
    tied = is_tied(config, stored)
    problems = [
        f"no tensor {name}.weight"
        for name, there in (
            (found.embedding, has_module(names, found.embedding)),
            (found.norm, f"{found.norm}.weight" in names),
            (found.head, tied or stored),
        )
        if not there
    ]
    if model_type in UNLIKE:
        problems.append(f"model type {model_type!r}: {UNLIKE[model_type]}")
    if rule is None:
        problems.append("the config has no rms_norm_eps or other norm epsilon")
    if not tied and f"{found.head}.bias" in names:
        problems.append(f"{found.head} has a bias")
    if problems or rule is None:
        raise StageError(
            f"{place}: cannot compute this verifier's logits: {'; '.join(problems)} "
            f"(tie_word_embeddings is {said_tied(config)})",
            hint="the verifier needs a token embedding, one final norm and one head without bias",
            rule="verifier-family",
        )
    return VerifierLayout(found.embedding, found.norm, norm_bias, None if tied else found.head, rule)


def end_names(names: Collection[str]) -> EndNames:
    """The row of ``LAYOUTS`` that has most of its modules among ``names``; the first of equals."""
    return max(LAYOUTS, key=lambda row: sum(has_module(names, module) for module in row))


def has_module(names: Collection[str], module: str) -> bool:
    """Whether a linear layer or embedding is stored, plain or quantised."""
    return any(f"{module}.{part}" in names for part in ("weight", "weight_packed", "qweight"))


def said_tied(config: Mapping[str, Any]) -> str:
    """``tie_word_embeddings`` as the config says it, for messages."""
    value = config.get("tie_word_embeddings", text_config(config).get("tie_word_embeddings"))
    return "not said" if value is None else str(value).lower()


def is_tied(config: Mapping[str, Any], head_stored: bool) -> bool:
    """Whether the head is the embedding.

    The outer config decides, as in engines: a tied checkpoint may carry its head all the same, and
    it is ignored.  Configs leave the flag out where it is their family's default; then a missing
    head tells.
    """
    outer, inner = config.get("tie_word_embeddings"), text_config(config).get("tie_word_embeddings")
    said = inner if outer is None else outer
    if said is None or (not head_stored and inner is not None and inner != said):
        return not head_stored
    return bool(said)


def output_rule(text: Mapping[str, Any], *, centred: bool) -> OutputRule | None:
    """What the language model's config says of norm and logits; None without a norm epsilon.

    Raises:
        ValueError: naming the key whose value is no number that this can be.
    """
    keys = EPS_KEYS if not centred else (*EPS_KEYS[2:], *EPS_KEYS[:2])
    said = next((key for key in keys if text.get(key) is not None), None)
    if said is None:
        return None
    return OutputRule(
        norm_eps=number(text, said),
        centred=centred,
        one_plus=str(text.get("model_type", "")) in ONE_PLUS_NORMS,
        logit_scale=logit_scale(text),
        soft_cap=number(text, "final_logit_softcapping") if text.get("final_logit_softcapping") else None,
    )


def logit_scale(text: Mapping[str, Any]) -> float:
    """The factor between head and logits.

    Cohere's ``logit_scale``, Falcon-H1's ``lm_head_multiplier`` and Muse's ``output_multiplier``
    multiply; Granite's ``logits_scaling`` divides; MiniCPM divides the state by
    ``hidden_size / dim_model_base``, which is the same after a linear head; Tele-FLM's ``output_mult`` is
    divided by its ``mup_scale_factor``.
    """
    factor = 1.0
    for key in ("logit_scale", "lm_head_multiplier", "output_multiplier"):
        if text.get(key) is not None:
            factor *= number(text, key)
    if text.get("logits_scaling"):
        scaling = number(text, "logits_scaling")
        factor *= scaling if text.get("model_type") in MULTIPLIED_SCALING else 1.0 / scaling
    if text.get("dim_model_base"):
        factor *= number(text, "dim_model_base") / number(text, "hidden_size")
    if text.get("use_mup"):
        factor *= number(text, "output_mult") / number(text, "mup_scale_factor")
    return factor


def number(text: Mapping[str, Any], key: str) -> float:
    """A finite number.

    Raises:
        ValueError: naming key and value, when it is none; text is none, for engines too.
    """
    value = text.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{key} is {value!r}, not a finite number")
    return float(value)
