"""``config.json`` of a speculators checkpoint: written so that nothing is left to a default.

vLLM hands ``transformer_layer_config`` on as it stands and fills in nothing, and its defaults for
missing norm flags differ from the reference's (``transformers_utils/configs/speculators``).  So
every value that changes arithmetic is written out.  There is no top-level ``model_type``: with one,
vLLM no longer recognises the format.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import speculators
from speculators.checkpoint.shape import ROPE_KINDS, Eagle3Config
from speculators.errors import StageError

CONFIG_NAME = "config.json"
ALGORITHM = "eagle3"
SLIDING = "sliding_attention"  # of ``layer_types``
DEFAULT_AUX_LAYERS = 3  # what vLLM's Llama draft assumes unless num_aux_hidden_states says otherwise

# What vLLM takes a missing flag to be; written out when a ready-made checkpoint leaves one open.
FLAG_DEFAULTS = {
    "norm_before_residual": True,
    "norm_before_fc": False,
    "fc_norm": False,
    "norm_output": False,
}

HUB_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)@[0-9a-f]{40}")


class VerifierName(NamedTuple):
    """Which verifier a draft belongs to, independent of where it lies on disk."""

    id: str  # canonical, such as "Qwen/Qwen3-8B@<commit>"
    digest: str  # sha256 over its files
    architecture: str  # such as "LlamaForCausalLM"


def hub_repository(verifier_id: str) -> str | None:
    """The Hugging Face repository of a canonical id ``owner/name@commit``; None for other sources."""
    match = HUB_ID.fullmatch(verifier_id)
    return match["repository"] if match else None


def to_document(config: Eagle3Config, speculative_tokens: int, verifier: VerifierName) -> dict[str, Any]:
    """The stored ``config.json``, naming the verifier canonically.

    ``name_or_path`` is the hub repository where there is one, because engines load it by that key;
    ``id`` and ``digest`` say exactly which files were meant (readers ignore keys they do not know).
    """
    layer: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        # The verifier's: width of the embedding, and of the logits the draft's are scattered into.
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "rope_parameters": config.rope_parameters,
        "tie_word_embeddings": False,
    }
    if config.sliding_window is not None:
        layer["layer_types"] = [SLIDING] * config.layers
        layer["sliding_window"] = config.sliding_window
    if len(config.aux_layers) != DEFAULT_AUX_LAYERS:
        layer["num_aux_hidden_states"] = len(config.aux_layers)
    return {
        "architectures": ["Eagle3DraftModel"],
        "speculators_model_type": ALGORITHM,
        "speculators_version": speculators.__version__,
        "draft_vocab_size": config.draft_vocab_size,
        "target_hidden_size": config.hidden_size,
        "eagle_aux_hidden_state_layer_ids": list(config.aux_layers),
        "norm_before_residual": config.norm_before_residual,
        "norm_before_fc": config.norm_before_fc,
        "fc_norm": config.fc_norm,
        "norm_output": config.norm_output,
        "embed_requires_grad": False,
        "dtype": "float32",
        "tie_word_embeddings": False,
        "speculators_config": {
            "algorithm": ALGORITHM,
            "default_proposal_method": "greedy",
            "proposal_methods": [
                {
                    "proposal_type": "greedy",
                    "speculative_tokens": speculative_tokens,
                    "verifier_accept_k": 1,
                    "accept_tolerance": 0.0,
                }
            ],
            "verifier": {
                "name_or_path": hub_repository(verifier.id) or verifier.id,
                "architectures": [verifier.architecture],
                "id": verifier.id,
                "digest": verifier.digest,
            },
        },
        "transformer_layer_config": layer,
    }


def localised(document: Mapping[str, Any], verifier_dir: Path) -> dict[str, Any]:
    """``document`` with the verifier's path made local, so that ``vllm serve DIR`` works as it is."""
    local: dict[str, Any] = copy.deepcopy(dict(document))
    local["speculators_config"]["verifier"]["name_or_path"] = str(verifier_dir.resolve())
    return local


def completed(document: Mapping[str, Any], verifier_layers: int) -> tuple[dict[str, Any], list[str]]:
    """A ready-made ``config.json`` made explicit without changing what vLLM does with it.

    Returns the document and one note for each change: open flags, layers and vocabulary get vLLM's
    own default (aux layers: ``model_executor/models/interfaces.py``; draft vocabulary:
    ``models/llama_eagle3.py``), and ``auto_map`` (a pointer to Python code that engines ignore) goes.
    """
    full, notes = copy.deepcopy(dict(document)), []
    layer = full.get("transformer_layer_config")
    defaults = {
        "eagle_aux_hidden_state_layer_ids": [2, verifier_layers // 2, verifier_layers - 3],
        "draft_vocab_size": layer.get("vocab_size") if isinstance(layer, dict) else None,
    }
    for name, value in defaults.items():
        if not full.get(name) and value is not None:
            full[name] = value
            notes.append(f"{name} was not written; vLLM takes it as {value}")
    for flag, default in FLAG_DEFAULTS.items():
        if flag not in full:
            full[flag] = default
            notes.append(f"{flag} was not written; vLLM takes it as {str(default).lower()}")
    if full.pop("auto_map", None) is not None:
        notes.append("auto_map dropped: engines do not read it")
    return full, notes


def from_document(document: Mapping[str, Any]) -> Eagle3Config:
    """The draft's shape from ``config.json``.

    Raises:
        StageError: the checkpoint uses what our own draft model does not compute (bias, another
            decoder family, RoPE of another kind, a sliding window in some of its layers).
    """
    layer = document["transformer_layer_config"]
    rope = layer.get("rope_parameters") or layer.get("rope_scaling") or {}
    hidden_size, kind = layer["hidden_size"], document.get("speculators_model_type")
    target_hidden_size = document.get("target_hidden_size") or hidden_size
    rope_kind = rope.get("rope_type") or rope.get("type") or "default"
    scaling = {name: value for name, value in rope.items() if name not in ("rope_theta", "rope_type", "type")}
    sliding = [name == SLIDING for name in layer.get("layer_types") or []]
    unlike = {
        f"speculators_model_type {kind!r}": kind != ALGORITHM,
        f"decoder family {layer.get('model_type')!r}": layer.get("model_type", "llama") != "llama",
        "attention or MLP bias": bool(layer.get("attention_bias") or layer.get("mlp_bias")),
        f"RoPE type {rope_kind!r}": rope_kind not in ROPE_KINDS,
        "RoPE of some features of a head": scaling.get("partial_rotary_factor", 1.0) != 1.0,
        "a sliding window in some layers only": any(sliding) and not all(sliding),
        "another hidden size than the verifier's": target_hidden_size != hidden_size,
    }
    found = [feature for feature, hit in unlike.items() if hit]
    if found:
        raise StageError(
            f"{CONFIG_NAME}: our draft model does not compute {', '.join(found)}",
            hint="it can be served and benchmarked, but not trained further or replayed",
            rule="draft-family",
        )
    heads = layer["num_attention_heads"]
    return Eagle3Config(
        hidden_size=hidden_size,
        intermediate_size=layer["intermediate_size"],
        num_attention_heads=heads,
        num_key_value_heads=layer.get("num_key_value_heads", heads),
        head_dim=layer.get("head_dim") or hidden_size // heads,
        rms_norm_eps=layer["rms_norm_eps"],
        rope_theta=float(rope.get("rope_theta", layer.get("rope_theta", 10000.0))),
        max_position_embeddings=layer["max_position_embeddings"],
        layers=layer["num_hidden_layers"],
        aux_layers=tuple(document["eagle_aux_hidden_state_layer_ids"]),
        vocab_size=layer["vocab_size"],
        draft_vocab_size=document.get("draft_vocab_size") or layer["vocab_size"],
        rope_scaling=None if rope_kind == "default" else {"rope_type": rope_kind, **scaling},
        sliding_window=layer.get("sliding_window") if any(sliding) else None,
        **{flag: bool(document.get(flag, default)) for flag, default in FLAG_DEFAULTS.items()},
    )
