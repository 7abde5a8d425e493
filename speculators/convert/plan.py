"""What a conversion is told, and what it means to write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from speculators.checkpoint.config_checks import strange_sizes
from speculators.checkpoint.rope import rope_parameters
from speculators.checkpoint.verifier_layout import text_config
from speculators.convert.account import Fate
from speculators.errors import RecipeError

DEFAULT_TOKENS = 3  # drafted at once where the source says nothing; serving can override it

#: Keys of a decoder's config that go into ``transformer_layer_config`` as they are.
LAYER_KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "hidden_act", "rms_norm_eps", "initializer_range", "attention_dropout", "sliding_window",
    "use_sliding_window", "layer_types", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip

#: Keys of a source's config that have no place in the target, and why.
NOT_TAKEN = {
    "auto_map": "it points at Python code, which engines do not run",
    "use_cache": "serving decides",
    "torch_dtype": "written as dtype",
    "pretraining_tp": "a trainer's setting",
    "_name_or_path": "a path of the machine that wrote it",
    "transformers_version": "of the writer",
}


@dataclass(frozen=True)
class Options:
    """What only the user can know.

    ``verifier``: name or path that engines will load; ``verifier_config``: its config.json.
    ``aux_layers``: in this project's convention.  ``flags``: norm flags that override the source's.
    """

    verifier: str
    verifier_config: Mapping[str, Any]
    aux_layers: tuple[int, ...] | None = None
    flags: Mapping[str, bool] = field(default_factory=dict)
    speculative_tokens: int | None = None

    @property
    def depth(self) -> int | None:
        """The verifier's decoder layers."""
        return text_config(self.verifier_config).get("num_hidden_layers")

    @property
    def vocab_size(self) -> int | None:
        return text_config(self.verifier_config).get("vocab_size")


class Plan(NamedTuple):
    """The target, before anything is written."""

    document: dict[str, Any]
    pieces: dict[str, Any]  # target name -> Stored or torch.Tensor
    fields: list[Fate]
    tensors: list[Fate]


def decoder_layer(
    config: Mapping[str, Any], model_type: str, vocab_size: int, options: Options, biased: bool
) -> tuple[dict[str, Any], list[Fate]]:
    """``transformer_layer_config`` from a source's decoder config, every value written out.

    Raises:
        RecipeError: a size that nothing can replace is missing, or one is no size.
    """
    needed = ("hidden_size", "intermediate_size", "num_attention_heads", "rms_norm_eps")
    if missing := [key for key in needed if config.get(key) is None]:
        raise RecipeError(
            f"the source's config has no {', '.join(missing)}",
            hint="this is not the config of a draft",
            rule="source-config",
        )
    if strange := strange_sizes(config):
        raise RecipeError(
            f"the source's config says {', '.join(strange)}",
            hint="no draft has such sizes; copy or download the checkpoint again",
            rule="source-config",
        )
    fates = [Fate(key, "kept") for key in LAYER_KEYS if config.get(key) is not None]
    layer = {key: config[key] for key in LAYER_KEYS if config.get(key) is not None}
    filled = {
        "num_hidden_layers": 1,
        "num_key_value_heads": config["num_attention_heads"],
        "head_dim": config["hidden_size"] // config["num_attention_heads"],
        "hidden_act": "silu",
        "attention_dropout": 0.0,
    }
    for key, value in filled.items():
        if key not in layer:
            layer[key] = value
            fates.append(Fate(key, "derived", str(value), "what readers take where it is not written"))
    rope = rope_parameters(config)
    spelled = [key for key in ("rope_parameters", "rope_theta", "rope_scaling", "partial_rotary_factor")
               if config.get(key) is not None]  # fmt: skip
    fates += [Fate(key, "renamed", "rope_parameters") for key in spelled] or [
        Fate("rope_parameters", "derived", str(rope), "none written: base 10000, as readers take it")
    ]
    positions = max(
        int(config.get("max_position_embeddings") or 0),
        int(text_config(options.verifier_config).get("max_position_embeddings") or 0),
    )
    changed = positions != config.get("max_position_embeddings")
    why = "the verifier's: drafting ends where it is reached" if changed else ""
    fates.append(
        Fate(
            "max_position_embeddings",
            "derived" if changed else "kept",
            str(positions) if changed else "",
            why,
        )
    )
    layer |= {
        "model_type": model_type,
        "vocab_size": vocab_size,
        "max_position_embeddings": positions,
        "rope_parameters": rope,
        "attention_bias": biased,
        "mlp_bias": bool(config.get("mlp_bias", False)),
        "tie_word_embeddings": False,
    }
    for key in ("model_type", "vocab_size", "attention_bias", "mlp_bias", "tie_word_embeddings"):
        same = config.get(key) == layer[key]
        fates.append(Fate(key, "kept" if same else "derived", "" if same else str(layer[key])))
    return layer, fates


def speculators_block(kind: str, tokens: int, options: Options) -> dict[str, Any]:
    """``speculators_config`` of a converted draft."""
    return {
        "algorithm": kind,
        "default_proposal_method": "greedy",
        "proposal_methods": [
            {
                "proposal_type": "greedy",
                "speculative_tokens": tokens,
                "verifier_accept_k": 1,
                "accept_tolerance": 0.0,
            }
        ],
        "verifier": {
            "name_or_path": options.verifier,
            "architectures": list(options.verifier_config.get("architectures") or []),
        },
    }
