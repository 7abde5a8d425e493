"""What a conversion is told, and what it means to write."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from speculators.checkpoint.rope import rope_parameters
from speculators.checkpoint.tensors import Layout
from speculators.checkpoint.verifier_layout import verifier_text
from speculators.convert.account import DERIVED, LAYER, ROPE, Fate
from speculators.convert.source import Source, unsaid

if TYPE_CHECKING:
    import torch

DEFAULT_TOKENS = 3  # drafted at once where the source says nothing; serving can override it

#: Keys of a decoder's config that go into ``transformer_layer_config`` as they are.
LAYER_KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "hidden_act", "rms_norm_eps", "initializer_range", "attention_dropout", "sliding_window",
    "use_sliding_window", "layer_types", "bos_token_id", "eos_token_id", "pad_token_id", "logit_scale",
)  # fmt: skip


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
        return verifier_text(self.verifier_config).get("num_hidden_layers")

    @property
    def vocab_size(self) -> int | None:
        return verifier_text(self.verifier_config).get("vocab_size")


class Plan(NamedTuple):
    """The target, before anything is written."""

    document: dict[str, Any]
    pieces: dict[str, Any]  # target name -> Stored or torch.Tensor
    fields: list[Fate]
    tensors: list[Fate]


def decoder_layer(
    source: Source, model_type: str, vocab_size: int, options: Options, names: Collection[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """``transformer_layer_config`` from a source's decoder config, every value written out.

    ``names``: of its tensors, in the format's spelling.  Returns it and the reasons of what the source does
    not say, for ``account``.

    Raises:
        StageError: a size that nothing can replace is missing.
    """
    config = source.config
    needed = ("hidden_size", "intermediate_size", "num_attention_heads", "rms_norm_eps")
    if missing := [key for key in needed if config.get(key) is None]:
        raise unsaid(source, missing)
    filled = {
        "num_hidden_layers": 1,
        "num_key_value_heads": config["num_attention_heads"],
        "head_dim": config["hidden_size"] // config["num_attention_heads"],
        "hidden_act": "silu",
        "attention_dropout": 0.0,
    }
    said = {key: config[key] for key in LAYER_KEYS if config.get(key) is not None}
    rope = rope_parameters(config)
    own, whole = (
        one.get("max_position_embeddings") or 0 for one in (config, verifier_text(options.verifier_config))
    )
    # LongRoPE's attention factor is reckoned from it (vLLM reads no other); a farther reach changes it.
    positions = own if own and rope["rope_type"] == "longrope" else max(own, whole)
    layer = {
        **filled,
        **said,
        "model_type": model_type,
        "vocab_size": vocab_size,
        "max_position_embeddings": positions,
        "rope_parameters": rope,
        # As stored, not as said: engines make a parameter of each bias, and do not notice a missing tensor.
        "attention_bias": "layers.0.self_attn.q_proj.bias" in names,
        "mlp_bias": "layers.0.mlp.gate_proj.bias" in names,
        "tie_word_embeddings": False,
    }
    reasons = {
        **dict.fromkeys((LAYER + key for key in filled), "what readers take where it is not written"),
        f"{LAYER}vocab_size": "the verifier's",
        f"{LAYER}max_position_embeddings": "the verifier's: drafting ends where it is reached",
        f"{LAYER}attention_bias": "as the tensors of q, k and v are",
        f"{LAYER}mlp_bias": "as the tensors of its MLP are",
        ROPE: "not written: readers take default RoPE, of base 10000",
        f"{ROPE}rope_type": "what readers take for it",
    }
    return layer, reasons


def zero_biases(layout: Layout, pieces: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], list[Fate]]:
    """Biases of o_proj that a source has not, and engines have wherever q, k and v have one."""
    import torch

    made = {
        name: torch.zeros(shape)
        for name, shape in layout.required.items()
        if name.endswith("o_proj.bias") and name.replace("o_proj", "q_proj") in pieces and name not in pieces
    }
    why = "zeros: engines have one wherever q, k and v have, of uninitialised memory where it is not stored"
    return made, [Fate(name, DERIVED, name, why) for name in made]


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
