"""EAGLE drafts of SafeAILab, and HASS's, which are trained otherwise and stored the same.

No released vLLM reads them in the speculators format; its ``method: eagle`` loads a plain Llama
config.  So the decoder's keys stand at the top level and the format's blocks beside them: both
kinds of readers find what they look for.
"""

from __future__ import annotations

import speculators
from speculators.checkpoint.eagle import FORMAT
from speculators.convert.account import Fate, account, accounted, kept_or_renamed
from speculators.convert.eagle.eagle3 import refuse_bias, target_name, vocabulary_size
from speculators.convert.plan import (
    DEFAULT_TOKENS,
    Options,
    Plan,
    decoder_layer,
    speculators_block,
    zero_biases,
)
from speculators.convert.source import Source, unfit
from speculators.errors import StageError

LEFT_OUT = {"lm_head.weight": "EAGLE drafts by its verifier's head, which engines share"}


def plan(source: Source, options: Options) -> Plan:
    """The converted draft.

    Raises:
        StageError: it has a bias after ``fc`` or a norm before its first layer, which vLLM's class
            does not compute (``model_executor/models/llama_eagle.py``).
    """
    place = str(source.folder)
    names = {target_name(name): name for name in source.tensors}
    if "fc.weight" not in names:
        raise unfit(place, "no fc.weight [H, 2H]: not an EAGLE draft")
    hidden, joined = source.sized(names["fc.weight"], 2)
    if joined != 2 * hidden:
        raise unfit(place, f"fc.weight is {[hidden, joined]}, not [H, 2H]: not an EAGLE draft")
    refuse_bias(source, names)
    normed = [name for name in names if name in ("layers.0.input_layernorm.weight", "norm.weight")
              or name.startswith("embed_layernorm") or "pre_lm_head" in name]  # fmt: skip
    if normed:
        raise StageError(
            f"{place}: has {', '.join(sorted(normed))}, and vLLM's EAGLE has no such norm",
            hint="this variant of EAGLE cannot be served by vLLM",
            rule="source-tensors",
        )
    vocab_size = vocabulary_size(source, names, options, place)
    layer, reasons = decoder_layer(source, "llama", vocab_size, options, names)
    document = {
        **layer,
        "architectures": ["LlamaForCausalLM"],
        "speculators_model_type": "eagle",
        "speculators_version": speculators.__version__,
        "draft_vocab_size": vocab_size,
        "speculators_config": speculators_block(
            "eagle", options.speculative_tokens or DEFAULT_TOKENS, options
        ),
        "transformer_layer_config": layer,
    }
    reasons["draft_vocab_size"] = "the verifier's"
    kept = {target: name for target, name in names.items()
            if target not in LEFT_OUT and target != "fc.bias" and "rotary_emb" not in target}  # fmt: skip
    moved = [kept_or_renamed(name, target) for target, name in kept.items()]
    if "fc.bias" in names:
        moved.append(Fate(names["fc.bias"], "dropped", "", "all zero"))
    made, more = zero_biases(FORMAT.tensors(document), kept)
    moved += more
    return Plan(
        document,
        {target: source.tensors[name] for target, name in kept.items()} | made,
        account(source.config, document, reasons),
        accounted(source.tensors, moved, LEFT_OUT, "no reader of the format has a place for it"),
    )
