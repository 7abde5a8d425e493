"""Checks of a checkpoint's ``config.json``: what vLLM reads from it, and what it silently assumes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from speculators.checkpoint.check import Check
from speculators.checkpoint.config import ALGORITHM, DEFAULT_AUX_LAYERS, FLAG_DEFAULTS

# vLLM 0.32, v1/attention/backends/cpu_attn.py: other head sizes cannot be served on a CPU.
CPU_HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)

# Without these keys a reader falls back to a default that need not be the trained value.
LAYER_KEYS = (
    "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "rms_norm_eps", "vocab_size", "max_position_embeddings",
)  # fmt: skip


def config_checks(document: Mapping[str, Any]) -> Iterator[Check]:
    """What vLLM's reader and model classes take from ``config.json``."""
    kind = document.get("speculators_model_type")
    yield Check("algorithm", kind == ALGORITHM, f"speculators_model_type is {kind!r}, known: {ALGORITHM!r}")
    present = [key for key in ("model_type", "auto_map") if key in document]
    yield Check("format recognisable", not present, ", ".join(present) or "no top-level model_type")
    yield proposal_check(document.get("speculators_config"))
    unwritten = [flag for flag in FLAG_DEFAULTS if not isinstance(document.get(flag), bool)]
    yield Check("norm flags explicit", not unwritten, ", ".join(unwritten) or "all four written")
    both = bool(document.get("norm_before_fc") and document.get("fc_norm"))
    yield Check("one norm before fc", not both, "norm_before_fc and fc_norm" if both else "at most one")
    ids = document.get("eagle_aux_hidden_state_layer_ids")
    # vLLM sorts and de-duplicates, so any other order would be fed in an order nobody trained with.
    ascending = isinstance(ids, list) and bool(ids) and ids == sorted(set(ids)) and ids[0] >= 0
    yield Check("aux layers ascend", ascending, f"eagle_aux_hidden_state_layer_ids is {ids}")
    layer = document.get("transformer_layer_config")
    if isinstance(layer, dict):
        yield from layer_checks(layer, len(ids) if isinstance(ids, list) else 0)
        draft_vocab, vocab = document.get("draft_vocab_size"), layer.get("vocab_size", 0)
        fits = isinstance(draft_vocab, int) and 0 < draft_vocab <= vocab
        yield Check("draft vocabulary fits", fits, f"{draft_vocab} of {vocab}")
    else:
        yield Check("layer config", False, "transformer_layer_config is missing")


def proposal_check(block: Any) -> Check:
    """``speculators_config`` as far as vLLM reads it."""
    name = "proposal and verifier named"
    try:
        tokens = block["proposal_methods"][0]["speculative_tokens"]
        verifier = block["verifier"]["name_or_path"]
    except (KeyError, IndexError, TypeError) as error:
        return Check(name, False, f"speculators_config lacks {error}")
    ok = isinstance(tokens, int) and tokens >= 1 and isinstance(verifier, str) and bool(verifier)
    return Check(name, ok, f"{tokens} speculative tokens for {verifier}")


def layer_checks(layer: Mapping[str, Any], aux: int) -> Iterator[Check]:
    """``transformer_layer_config``: vLLM passes it on verbatim and fills in nothing."""
    absent = [key for key in LAYER_KEYS if layer.get(key) is None]
    yield Check("layer keys written", not absent, ", ".join(absent) or "all written")
    family = layer.get("model_type")
    yield Check("decoder family", family in ("llama", "qwen3"), f"model_type is {family!r}: llama or qwen3")
    yield Check("activation", layer.get("hidden_act") == "silu", f"hidden_act is {layer.get('hidden_act')!r}")
    theta = (layer.get("rope_parameters") or {}).get("rope_theta") or layer.get("rope_theta")
    # A null rope_scaling overwrites rope_parameters in transformers 5; without either the base is 10000.
    null_scaling = "rope_scaling" in layer and layer["rope_scaling"] is None
    yield Check("RoPE written", theta is not None and not null_scaling, f"rope_theta {theta}")
    types = layer.get("layer_types")
    count = layer.get("num_hidden_layers")
    yield Check("layer types", types is None or len(types) == count, f"{types} for {count} layers")
    if family == "llama":
        seen = layer.get("num_aux_hidden_states", DEFAULT_AUX_LAYERS)
        yield Check("aux count", seen == aux, f"vLLM will size fc for {seen} aux layers, {aux} are named")
    heads = layer.get("num_attention_heads") or 1
    dim = layer.get("head_dim") or (layer.get("hidden_size") or 0) // heads
    yield Check("head size on CPU", dim in CPU_HEAD_DIMS, f"head_dim {dim}", severity="warning")
