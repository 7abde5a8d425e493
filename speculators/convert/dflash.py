"""DFlash drafts as z-lab publishes them (arXiv 2602.06036).

Tensor names are the format's own.  ``target_layer_ids`` counts layer outputs from zero: their code
reads ``hidden_states[id + 1]``, which is the state after id + 1 layers.
"""

from __future__ import annotations

from typing import Any

import speculators
from speculators.convert.account import Fate, accounted, derived, kept_or_renamed
from speculators.convert.plan import NOT_TAKEN, Options, Plan, decoder_layer, speculators_block
from speculators.convert.source import Source
from speculators.errors import StageError

LEFT_OUT = {
    "embed_tokens.weight": "the verifier's, engines share it",
    "lm_head.weight": "the verifier's, engines share it",
    "mask_hidden": "vLLM refuses it: the mask is a token's embedding",
}


def plan(source: Source, options: Options) -> Plan:
    """The converted draft.

    Raises:
        StageError: the config does not say block, mask token or layers, or they do not fit ``fc``.
    """
    config, own = source.config, source.config.get("dflash_config") or {}
    block = block_size(source)
    hidden, _ = source.shape("fc.weight")
    target_hidden = int(config.get("target_hidden_size") or hidden)
    layers = target_layers(source, options, target_hidden)
    biased = "layers.0.self_attn.q_proj.bias" in source.tensors
    layer, fates = decoder_layer(config, "qwen3", int(config["vocab_size"]), options, biased)
    tokens = options.speculative_tokens or block - 1
    document = {
        "architectures": ["DFlashDraftModel"],
        "speculators_model_type": "dflash",
        "speculators_version": speculators.__version__,
        "draft_vocab_size": layer["vocab_size"],
        "block_size": block,
        "target_hidden_size": target_hidden,
        "aux_hidden_state_layer_ids": list(layers),
        "mask_token_id": own["mask_token_id"],
        "sample_from_anchor": False,
        "sliding_window_non_causal": not own.get("causal", False),
        "tie_word_embeddings": False,
        "speculators_config": speculators_block("dflash", tokens, options),
        "transformer_layer_config": layer,
    }
    by = "as given" if options.aux_layers else "target_layer_ids, which count outputs from zero, plus one"
    counted = "as given" if options.speculative_tokens else "the block less its known token"
    fates += [
        Fate("block_size", "kept"),
        Fate("dflash_config", "renamed", "keys of the format", "mask_token_id, layer ids, causal"),
        derived("aux_hidden_state_layer_ids", list(layers), by),
        Fate("architectures", "kept"),
        derived("speculative_tokens", tokens, counted),
    ]
    left_out = [name for name in source.tensors if name in LEFT_OUT or "rotary_emb" in name]
    pieces = {name: piece for name, piece in source.tensors.items() if name not in left_out}
    moved = [kept_or_renamed(name, name) for name in pieces]
    unread = {**NOT_TAKEN, "num_target_layers": "the verifier's config says it"}
    return Plan(
        document,
        pieces,
        accounted(config, fates, unread, "no reader of the format has a use for it"),
        accounted(source.tensors, moved, LEFT_OUT, "engines build it"),
    )


def block_size(source: Source) -> int:
    """Tokens of a block, the known one included, of a source that is a DFlash draft.

    Raises:
        StageError: it is none.
    """
    config, place = source.config, str(source.folder)
    own: dict[str, Any] = config.get("dflash_config") or {}
    block: Any = config.get("block_size") or own.get("block_size")
    said = {
        "block_size": block,
        "dflash_config.mask_token_id": own.get("mask_token_id"),
        "vocab_size": config.get("vocab_size"),
    }
    if missing := [name for name, value in said.items() if not isinstance(value, int)]:
        raise StageError(f"{place}: config.json does not say {', '.join(missing)}", rule="source-config")
    if "fc.weight" not in source.tensors or "hidden_norm.weight" not in source.tensors:
        raise StageError(
            f"{place}: no fc.weight and hidden_norm.weight: no DFlash draft", rule="source-tensors"
        )
    return int(block)


def target_layers(source: Source, options: Options, target_hidden: int) -> tuple[int, ...]:
    """The states that ``fc`` reads, in this project's convention.

    Raises:
        StageError: they are not as many as it reads, or do not ascend.
    """
    ids = (source.config.get("dflash_config") or {}).get("target_layer_ids")
    layers = options.aux_layers or (tuple(layer + 1 for layer in ids) if ids else ())
    _, fused = source.shape("fc.weight")
    if len(layers) * target_hidden != fused or list(layers) != sorted(set(layers)):
        raise StageError(
            f"{source.folder}: layers {list(layers)} do not fit fc, which reads "
            f"{fused // target_hidden} states",
            hint="say the layers: --aux-layers counts decoder layers before the state",
            rule="layer-ids",
        )
    return layers
