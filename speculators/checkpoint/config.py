"""``config.json`` of a speculators checkpoint: written so that nothing is left to a default.

vLLM hands ``transformer_layer_config`` on as it stands and fills in nothing, and its defaults for
missing norm flags differ from the reference's (``transformers_utils/configs/speculators``).  So
every value that changes arithmetic is written out.  There is no top-level ``model_type``: with one,
vLLM no longer recognises the format; but see ``Format.flat``.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import speculators
from speculators.checkpoint.format import Format
from speculators.checkpoint.rope import rope_parameters
from speculators.checkpoint.shape import ROPE_KINDS, SLIDING, DraftConfig
from speculators.checkpoint.tensors import Layout
from speculators.documents import file_digest, read_json, value_digest
from speculators.errors import StageError
from speculators.training.architectures import FORMATS

if TYPE_CHECKING:
    from speculators.checkpoint.tokenizer import Tokenizer

CONFIG_NAME = "config.json"
DEFAULT_AUX_LAYERS = 3  # what vLLM's Llama draft assumes unless num_aux_hidden_states says otherwise

HUB_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)@[0-9a-f]{40}")


class VerifierName(NamedTuple):
    """Which verifier a draft belongs to, independent of where it lies on disk."""

    id: str  # canonical, such as "Qwen/Qwen3-8B@<commit>"
    digest: str  # sha256 over its files
    architecture: str  # such as "LlamaForCausalLM"
    tokenizer: Tokenizer | None = None


def hub_repository(verifier_id: str) -> str | None:
    """The Hugging Face repository of a canonical id ``owner/name@commit``; None for other sources."""
    match = HUB_ID.fullmatch(verifier_id)
    return match["repository"] if match else None


def stored_format(document: Mapping[str, Any]) -> Format | None:
    """The format that ``config.json`` says it has; None for one that we do not know."""
    kind = document.get("speculators_model_type")
    return FORMATS.get(kind) if isinstance(kind, str) else None


def compared_format(document: Mapping[str, Any]) -> Format | None:
    """The format by which a draft hangs on its verifier: its own, or of a kind that only others train the
    one that it is kin of; None for one that is unlike all."""
    kind = document.get("speculators_model_type")
    return stored_format(document) or next((row for row in FORMATS.values() if kind in row.kin), None)


def format_of(config: DraftConfig) -> Format:
    """The format that stores drafts of this shape."""
    return next(known for known in FORMATS.values() if known.config is type(config))


def to_document(config: DraftConfig, speculative_tokens: int, verifier: VerifierName) -> dict[str, Any]:
    """The stored ``config.json``, naming the verifier canonically.

    ``name_or_path`` is the hub repository where there is one, because engines load it by that key;
    ``id`` and ``digest`` say exactly which files were meant, ``tokenizer`` and ``chat_template`` by which
    tokens it was trained (readers ignore keys they do not know).
    """
    layer = layer_document(config)
    return {
        "architectures": [format_of(config).architecture],
        **(layer if format_of(config).flat else {}),
        **own_document(config),
        "dtype": "float32",
        "tie_word_embeddings": False,
        "speculators_config": {
            "algorithm": format_of(config).stored_as,
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
                **(verifier.tokenizer.recorded() if verifier.tokenizer else {}),
            },
        },
        "transformer_layer_config": layer,
    }


def layer_document(config: DraftConfig) -> dict[str, Any]:
    """``transformer_layer_config``: what vLLM builds the draft's decoder layers from."""
    known = format_of(config)
    layer: dict[str, Any] = {
        "model_type": known.family,
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
    if counts_aux_layers(known.family, known) and len(config.aux_layers) != DEFAULT_AUX_LAYERS:
        layer["num_aux_hidden_states"] = len(config.aux_layers)
    return layer


def counts_aux_layers(family: str | None, known: Format) -> bool:
    """Whether vLLM's class sizes ``fc`` by a count beside the layer's keys, not by the list of ids."""
    return family == "llama" and known.layers_key is not None


def own_document(config: DraftConfig) -> dict[str, Any]:
    """The top-level keys that say which draft it is."""
    known = format_of(config)
    layers = {known.layers_key: list(config.aux_layers)} if known.layers_key else {}
    varied = [*known.numbers, *(flag for flag in known.flags if flag not in known.fixed)]
    return {
        "speculators_model_type": known.stored_as,
        "speculators_version": speculators.__version__,
        "draft_vocab_size": config.draft_vocab_size,
        "target_hidden_size": config.hidden_size,
        **layers,
        **known.fixed,
        **{name: getattr(config, name) for name in varied},
        "embed_requires_grad": False,
    }


def draft_layout(config: DraftConfig) -> Layout:
    """The tensors of a draft of this shape."""
    document = {**own_document(config), "transformer_layer_config": layer_document(config)}
    return format_of(config).tensors(document)


def localised(document: Mapping[str, Any], verifier_dir: Path) -> dict[str, Any]:
    """``document`` with the verifier's path made local, so that ``vllm serve DIR`` works as it is."""
    local: dict[str, Any] = copy.deepcopy(dict(document))
    local["speculators_config"]["verifier"]["name_or_path"] = str(verifier_dir.resolve())
    return local


def canonical(document: Mapping[str, Any]) -> dict[str, Any]:
    """``document`` with its verifier named as anywhere, the opposite of ``localised``; without the verifier's
    id it stays as it is."""
    found: dict[str, Any] = copy.deepcopy(dict(document))
    verifier = found.get("speculators_config", {}).get("verifier")
    if isinstance(verifier, dict) and isinstance(verifier.get("id"), str):
        verifier["name_or_path"] = hub_repository(verifier["id"]) or verifier["id"]
    return found


def checkpoint_digest(folder: Path) -> str:
    """What identifies a checkpoint wherever it lies: its canonical config and its weights' bytes.

    A ready-made one and the copy that the package stage bound to its verifier are two.
    """
    weights = {path.name: file_digest(path) for path in sorted(folder.glob("*.safetensors"))}
    return value_digest({CONFIG_NAME: canonical(read_json(folder / CONFIG_NAME)), **weights})


def completed(document: Mapping[str, Any], verifier_layers: int) -> tuple[dict[str, Any], list[str]]:
    """A ready-made ``config.json`` made explicit without changing what vLLM does with it.

    Returns the document and one note for each change: open flags, layers and vocabulary get vLLM's
    own default (aux layers: ``model_executor/models/interfaces.py``; draft vocabulary:
    ``models/llama_eagle3.py``), and ``auto_map`` (a pointer to Python code that engines ignore) goes.
    """
    full, notes = copy.deepcopy(dict(document)), []
    layer, known = full.get("transformer_layer_config"), compared_format(full)
    defaults: dict[str, Any] = {
        "draft_vocab_size": layer.get("vocab_size") if isinstance(layer, dict) else None
    }
    if known and known.layers_key and known.layers_assumed:
        defaults[known.layers_key] = [2, verifier_layers // 2, verifier_layers - 3]
    for name, value in defaults.items():
        if not full.get(name) and value is not None:
            full[name] = value
            notes.append(f"{name} was not written; vLLM takes it as {value}")
    for flag, default in (known.open_flags if known else {}).items():
        if flag not in full:
            full[flag] = default
            notes.append(f"{flag} was not written; vLLM takes it as {str(default).lower()}")
    if full.pop("auto_map", None) is not None:
        notes.append("auto_map dropped: engines do not read it")
    return full, notes


def from_document(document: Mapping[str, Any]) -> DraftConfig:
    """The draft's shape from ``config.json``.

    Raises:
        StageError: the checkpoint uses what our own draft models do not compute (bias, another
            decoder family, RoPE of another kind, a sliding window in some of its layers).
    """
    known, layer = stored_format(document), document["transformer_layer_config"]
    if known is None:
        raise _not_computed([f"speculators_model_type {document.get('speculators_model_type')!r}"])
    if unlike := _unlike(document, known):
        raise _not_computed(unlike)
    heads, hidden_size = layer["num_attention_heads"], layer["hidden_size"]
    rope_kind, theta, scaling = _rope(layer)
    varied = {flag: default for flag, default in known.open_flags.items() if flag not in known.fixed}
    return known.config(
        hidden_size=hidden_size,
        intermediate_size=layer["intermediate_size"],
        num_attention_heads=heads,
        num_key_value_heads=layer.get("num_key_value_heads", heads),
        head_dim=layer.get("head_dim") or hidden_size // heads,
        rms_norm_eps=layer["rms_norm_eps"],
        rope_theta=theta,
        max_position_embeddings=layer["max_position_embeddings"],
        layers=layer["num_hidden_layers"],
        aux_layers=known.aux_layers(document),
        vocab_size=layer["vocab_size"],
        draft_vocab_size=document.get("draft_vocab_size") or layer["vocab_size"],
        rope_scaling=None if rope_kind == "default" else {"rope_type": rope_kind, **scaling},
        sliding_window=layer.get("sliding_window") if any(_sliding(layer)) else None,
        **{flag: bool(document.get(flag, default)) for flag, default in varied.items()},
        **{name: document[name] for name in known.numbers},
    )


def _rope(layer: Mapping[str, Any]) -> tuple[str, float, dict[str, Any]]:
    """Kind, base and whatever else turns the angles."""
    rope = rope_parameters(layer)
    scaling = {name: value for name, value in rope.items() if name not in ("rope_theta", "rope_type")}
    return rope["rope_type"], float(rope["rope_theta"]), scaling


def _sliding(layer: Mapping[str, Any]) -> list[bool]:
    """Of each layer whose kind is written, whether it has a sliding window."""
    return [name == SLIDING for name in layer.get("layer_types") or []]


def _unlike(document: Mapping[str, Any], known: Format) -> list[str]:
    """What the config asks for that our model of the architecture does not compute."""
    layer = document["transformer_layer_config"]
    (rope_kind, _, scaling), sliding = _rope(layer), _sliding(layer)
    target_hidden_size = document.get("target_hidden_size") or layer["hidden_size"]
    features = {
        f"decoder family {layer.get('model_type')!r}": layer.get("model_type", "llama") != known.family,
        "attention or MLP bias": bool(layer.get("attention_bias") or layer.get("mlp_bias")),
        f"RoPE type {rope_kind!r}": rope_kind not in ROPE_KINDS,
        "RoPE of some features of a head": scaling.get("partial_rotary_factor", 1.0) != 1.0,
        "a sliding window": any(sliding) and not known.windowed,
        "a sliding window in some layers only": known.windowed and any(sliding) and not all(sliding),
        "another hidden size than the verifier's": target_hidden_size != layer["hidden_size"],
        **{
            f"{name} {str(not value).lower()}": document.get(name, known.open_flags.get(name)) is not value
            for name, value in known.fixed.items()
        },
    }
    return [feature for feature, hit in features.items() if hit]


def _not_computed(features: list[str]) -> StageError:
    return StageError(
        f"{CONFIG_NAME}: our draft models do not compute {', '.join(features)}",
        hint="it can be served and benchmarked, but not trained further or replayed",
        rule="draft-family",
    )
