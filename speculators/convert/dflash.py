"""DFlash drafts as z-lab publishes them (arXiv 2602.06036).

Tensor names are the format's own.  ``target_layer_ids`` counts layer outputs from zero: their code
reads ``hidden_states[id + 1]``, which is the state after id + 1 layers.
"""

from __future__ import annotations

from typing import Any

import speculators
from speculators.checkpoint.dflash import FORMAT
from speculators.checkpoint.shape import SLIDING
from speculators.convert.account import account, accounted, kept_or_renamed
from speculators.convert.plan import Options, Plan, decoder_layer, speculators_block, zero_biases
from speculators.convert.source import MASK_NAME, Source, unfit, unplaced, unsaid
from speculators.convert.source_config import with_block
from speculators.errors import RecipeError, StageError

LEFT_OUT = {"mask_hidden": "vLLM refuses it: the mask is a token's embedding"}

#: By what vLLM computes a draft (``qwen3_dflash.py``) and the format has no key for -> what most have.
UNSAYABLE = {
    "attention_sink_bias": False, "add_swa_attention_sink_bias": False, "attention_value_scale": 1.0,
    "is_neox_style": True, "sample_from_anchor": False, "swa_window_size": None, "use_aux_hidden_state": True,
    "use_swa": False,
}  # fmt: skip


def plan(source: Source, options: Options) -> Plan:
    """The converted draft.

    Raises:
        StageError: the config does not say block, mask token or layers, or they do not fit ``fc``; or it says
            what the format cannot.
    """
    config, own = source.config, source.config.get("dflash_config") or {}
    block = block_size(source)
    hidden, _ = source.sized("fc.weight", 2)
    target_hidden = config.get("target_hidden_size") or hidden
    layers = target_layers(source, options, target_hidden)
    refuse_unsayable(source)
    layer, reasons = decoder_layer(source, "qwen3", config["vocab_size"], options, source.tensors)
    tokens = tokens_of(block, options, str(source.folder))
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
        "sliding_window_non_causal": not is_causal(source),
        "tie_word_embeddings": False,
        "speculators_config": speculators_block("dflash", tokens, options),
        "transformer_layer_config": layer,
    }
    by = "as given" if options.aux_layers else "target_layer_ids, which count outputs from zero, plus one"
    counted = "as given" if options.speculative_tokens else "the block less its known token"
    reasons |= {
        "aux_hidden_state_layer_ids": by,
        "speculators_config.proposal_methods": counted,
        "target_hidden_size": "the draft's own width",
        "draft_vocab_size": "the verifier's: this draft says every token",
        "sample_from_anchor": "the known token is none of the drafted ones",
        "sliding_window_non_causal": "as vLLM reads it: causal if it says so, or if all layers have a window",
    }
    left_out = [name for name in source.tensors if name in LEFT_OUT or "rotary_emb" in name]
    pieces = {name: piece for name, piece in source.tensors.items() if name not in left_out}
    moved = [kept_or_renamed(name, name) for name in pieces]
    made, more = zero_biases(FORMAT.tensors(document), pieces)
    return Plan(
        document,
        pieces | made,
        account(config, document, reasons),
        accounted(source.tensors, moved + more, LEFT_OUT, "engines build it"),
    )


def refuse_unsayable(source: Source) -> None:
    """Refuse what would change without a word, since the format cannot say it.

    Raises:
        StageError: there is something.
    """
    said = with_block(source.config, "dflash_config")
    unlike = [key for key, usual in UNSAYABLE.items() if said.get(key, usual) not in (usual, None)]
    found = [f"{key} {said[key]!r}" for key in unlike]
    if (source.folder / MASK_NAME).is_file():
        found.append(f"{MASK_NAME}, an embedding of unknown tokens")
    if found:
        raise unplaced(source, " and ".join(found))


def is_causal(source: Source) -> bool:
    """Whether tokens of a block see only those before them: as is said, else where layers have a window.

    As vLLM resolves it for each layer (``_dflash_layer_causal``); the format says it of all.

    Raises:
        StageError: it is so in some layers only.
    """
    for said in (source.config.get("is_causal"), (source.config.get("dflash_config") or {}).get("causal")):
        if said is not None:
            return bool(said)
    windows = {kind == SLIDING for kind in source.config.get("layer_types") or ("",)}
    if len(windows) > 1:
        raise unplaced(source, "layers with a window, which are causal, beside others, which are not")
    return windows.pop()


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
        raise unsaid(source, missing)
    if "fc.weight" not in source.tensors or "hidden_norm.weight" not in source.tensors:
        raise unfit(place, "no fc.weight and hidden_norm.weight: no DFlash draft")
    if block < 2:
        raise unfit(place, f"a block of {block}, of which one token is known: nothing is drafted")
    return int(block)


def tokens_of(block: int, options: Options, place: str) -> int:
    """How many tokens are drafted at once: all of a block but the one that is known, or fewer as asked.

    Raises:
        RecipeError: more are asked for.
    """
    asked = options.speculative_tokens
    if asked is not None and asked >= block:
        raise RecipeError(
            f"--tokens {asked}: {place} drafts blocks of {block}, of which one token is known",
            hint=f"ask for at most {block - 1}, or leave --tokens out",
            rule="usage",
        )
    return asked or block - 1


def target_layers(source: Source, options: Options, target_hidden: int) -> tuple[int, ...]:
    """The states that ``fc`` reads, in this project's convention.

    Raises:
        StageError: they are not as many as it reads, or do not ascend.
    """
    ids = (source.config.get("dflash_config") or {}).get("target_layer_ids")
    layers = options.aux_layers or (tuple(layer + 1 for layer in ids) if ids else ())
    _, fused = source.sized("fc.weight", 2)
    if len(layers) * target_hidden != fused or list(layers) != sorted(set(layers)):
        raise StageError(
            f"{source.folder}: layers {list(layers)} do not fit fc, which reads "
            f"{fused // target_hidden} states",
            hint="say the layers: --aux-layers counts decoder layers before the state",
            rule="layer-ids",
        )
    return layers
