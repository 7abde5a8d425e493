"""Checks of a draft that the packager's validator has no need of: a stranger's mistakes.

The validator asks "does vLLM get all it needs"; these ask "is this what was trained", with
whatever evidence lies in config, weights and verifier.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from speculators.checkpoint.check import Check, failures
from speculators.checkpoint.config import compared_format, stored_format
from speculators.checkpoint.folder import read_object
from speculators.checkpoint.format import Format
from speculators.checkpoint.rope import rope_differences, rope_parameters
from speculators.checkpoint.tensors import canonical_name, is_reduced
from speculators.checkpoint.trained_as import (
    DIGESTS,
    FUSED,
    TRAINED_AS,
    block_order,
    changed_tensors,
    changes,
    retyped,
)
from speculators.checkpoint.verifier_layout import verifier_text
from speculators.checkpoint.verifier_weights import load_verifier_weights
from speculators.checkpoint.vocabulary import from_offsets
from speculators.checkpoint.weights_file import Stored, load_stored
from speculators.convert.layer_ids import default_layers
from speculators.convert.source_config import TEXTS
from speculators.convert.vocabulary_map import ABSOLUTE, OFFSETS, sound_readings
from speculators.errors import StageError
from speculators.training.architectures import FORMATS

HOLDS_OFFSETS, IS_TRAINED, IN_ORDER = (
    "d2t holds offsets",
    "fc is the trained one",
    "fc reads its states in order",
)
#: What accounts for a tensor that is not as written.
EXPLAINED = {HOLDS_OFFSETS: "d2t", IS_TRAINED: FUSED, IN_ORDER: FUSED}
ENDS = ("embed_tokens.weight is the verifier's", "lm_head.weight is the verifier's")


def own_checks(
    document: Mapping[str, Any], tensors: Mapping[str, Stored], metadata: Mapping[str, str]
) -> Iterator[Check]:
    """What config and weights say of each other and of themselves."""
    changed = changes(metadata, document)
    told = "; ".join(
        f"{one.key} is {one.now!r}, the weights were trained with {one.trained!r}" for one in changed
    )
    yield Check("config is as trained", not changed, told or "nothing says otherwise")
    particular = [*map_check(document, tensors), *fused_checks(document, tensors, metadata)]
    yield from particular
    explained = {EXPLAINED[check.name] for check in failures(particular)}
    altered = [name for name in changed_tensors(metadata, tensors) if name not in explained]
    yield Check("tensors are as written", not altered, ", ".join(altered) or "nothing says otherwise")
    cast = "; ".join(f"{one.key} is {one.now}, was {one.trained}" for one in retyped(metadata, tensors))
    yield Check("tensors of the written type", not cast, cast or "nothing says otherwise", "warning")
    yield from open_flag_checks(document, tensors, recorded=bool(metadata.get(TRAINED_AS)))
    code = "auto_map" in document
    yield Check("no code named", not code, "auto_map" if code else "none", "warning")
    said, shown = stored_format(document), shown_algorithms(tensors)
    unlike = bool(shown) and said is not None and said not in shown
    named = [kind for row in shown for kind in (row.stored_as, *row.kin)]
    detail = f"named {document.get('speculators_model_type')!r}, tensors of {' or '.join(named)}"
    yield Check("algorithm as tensors show", not unlike, detail)
    layer = document.get("transformer_layer_config")
    places = [document, layer if isinstance(layer, dict) else {}]
    quantised = any(place.get("quantization_config") for place in places)
    plain = all(piece.dtype in ("F64", "F32", "F16", "BF16", "I64", "BOOL") for piece in tensors.values())
    detail = "a quantization_config beside plain tensors" if quantised and plain else "none"
    yield Check("no quantisation of its own", not (quantised and plain), detail)


def map_check(document: Mapping[str, Any], tensors: Mapping[str, Stored]) -> Iterator[Check]:
    """Whether ``d2t`` is what engines read, offsets, and not the ids themselves."""
    layer = document.get("transformer_layer_config")
    vocab_size = layer.get("vocab_size") if isinstance(layer, dict) else None
    if "d2t" not in tensors or type(vocab_size) is not int:
        return
    members = load_stored(tensors["t2d"]).bool().nonzero().flatten() if "t2d" in tensors else None
    found = sound_readings(load_stored(tensors["d2t"]), members, vocab_size)
    if ABSOLUTE in found:
        ids, by = found[ABSOLUTE], "the only sound reading" if members is None else "as t2d says"
        severity = "warning" if OFFSETS in found else "error"
        by = "as sound as offsets, and there is no t2d to tell" if OFFSETS in found else by
        yield Check(HOLDS_OFFSETS, False, f"d2t can be absolute ids {ids[:3].tolist()}...: {by}", severity)
    elif OFFSETS in found:
        yield Check(HOLDS_OFFSETS, True, "offsets lead to distinct tokens")


def fused_checks(
    document: Mapping[str, Any], tensors: Mapping[str, Stored], metadata: Mapping[str, str]
) -> Iterator[Check]:
    """Whether ``fc`` is the trained one, and joins the states in the order in which it learnt them."""
    if FUSED not in tensors:
        return
    order = block_order(metadata, tensors[FUSED])
    if not order:
        return
    others = order.count(None)
    shown = f"{others} of {len(order)} column blocks are none of the trained ones"
    yield Check(IS_TRAINED, not others, shown if others else f"{len(order)} column blocks")
    known = compared_format(document)
    ids = known.aux_layers(document) if known is not None and document.get(known.layers_key or "") else ()
    names = [f"layer {layer}" for layer in ids] if len(ids) == len(order) else range(1, len(order) + 1)
    was = ", ".join(str(names[place]) for place in order if place is not None)
    if not others:
        yield Check(
            IN_ORDER, order == list(range(len(order))), f"its column blocks are for {was}, in this order"
        )


def unrecorded(
    document: Mapping[str, Any], metadata: Mapping[str, str], tensors: Mapping[str, Stored]
) -> list[str]:
    """Mistakes that config and tensors cannot show, where no record of the training does, and a probe can.

    A record tells nothing of the numbers in a tensor that is stored in another type.
    """
    known = stored_format(document)
    if known is None:
        return []
    config = ["layer ids one off"] if known.layers_key else []
    config += [f"a flipped {flag}" for flag in known.flags if flag not in known.flag_tensors]
    config += ["another RoPE or norm epsilon"]
    weights = ["another fc or head", "fc's columns in another order"]
    told = DIGESTS in metadata and not retyped(metadata, tensors)
    return [*([] if TRAINED_AS in metadata else config), *([] if told else weights)]


def open_flag_checks(
    document: Mapping[str, Any], tensors: Mapping[str, Stored], *, recorded: bool
) -> Iterator[Check]:
    """Flags and layers that the config leaves to its reader, and whether readers agree about them.

    vLLM takes some open flags to be true; the format's first writer took all of them to be false.
    ``recorded``: the file is of a writer that leaves nothing open.
    """
    known = compared_format(document)
    if known is None:
        return
    shown = known.shown_flags({canonical_name(name) for name in tensors})
    unwritten = [flag for flag in known.flags if not isinstance(document.get(flag), bool)]
    told = [flag for flag in unwritten if known.open_flags[flag] or shown.get(flag)]
    # Of kin it is not known which flags vLLM's class reads.
    certain = (told and known is stored_format(document)) or recorded
    severity = "error" if certain else "warning"
    yield Check("flags explicit", not unwritten, ", ".join(told or unwritten) or "all written", severity)
    if known.layers_assumed:
        written = bool(document.get(known.layers_key or ""))
        said = document.get(known.layers_key or "")
        detail = f"{known.layers_key} is {said}" + ("" if written else ": vLLM takes 2, N / 2, N - 3")
        yield Check("aux layers written", written, detail, "error" if recorded else "warning")


def shown_algorithms(tensors: Mapping[str, Stored]) -> list[Format]:
    """What a draft with these tensors can be; nothing where they do not tell."""
    shapes = {canonical_name(name): piece.shape for name, piece in tensors.items()}
    return [row for row in FORMATS.values() if row.told_by(shapes)]


def verifier_config_checks(
    document: Mapping[str, Any], verifier_dir: Path, metadata: Mapping[str, str]
) -> Iterator[Check]:
    """The draft's config against its verifier's.

    Layer ids that the weights' own record has are in this project's convention, whatever they are.
    """
    config = read_object(verifier_dir / "config.json")
    known, depth = compared_format(document), verifier_text(config).get("num_hidden_layers")
    ids = document.get(known.layers_key or "") if known is not None and known.layers_assumed else None
    if isinstance(depth, int) and isinstance(ids, list) and TRAINED_AS not in metadata:
        shifted = [layer - 1 for layer in default_layers(depth)]
        yield Check("layer id convention", ids != shifted, f"{ids} of {depth} layers")
    yield from layer_config_checks(document, verifier_dir)
    block = document.get("speculators_config")
    named = block.get("verifier") if isinstance(block, dict) else None
    said = named.get("architectures") if isinstance(named, dict) else None
    meant = set(said) if isinstance(said, list) and TEXTS.holds(said) else set()
    given = set(config.get("architectures") or [])
    other = bool(meant and given and not meant & given)
    yield Check("verifier is the one meant", not other, f"{sorted(given)}, made for {sorted(meant)}")


def layer_config_checks(document: Mapping[str, Any], verifier_dir: Path) -> Iterator[Check]:
    """RoPE and reach of the draft's layers against the verifier's."""
    text = verifier_text(read_object(verifier_dir / "config.json"))
    layer = document.get("transformer_layer_config") or {}
    differences = rope_differences(rope_parameters(layer), rope_parameters(text))
    yield Check("RoPE is the verifier's", not differences, "; ".join(differences) or "the same", "warning")
    own, whole = layer.get("max_position_embeddings"), text.get("max_position_embeddings")
    short = isinstance(own, int) and isinstance(whole, int) and own < whole
    yield Check("reaches as far as its verifier", not short, f"{own} of {whole} positions", "warning")


def ends_together(checks: Sequence[Check], folder_tensors: Mapping[str, Stored], verifier_dir: Path,
                  document: Mapping[str, Any], *, recorded: bool) -> list[Check]:  # fmt: skip
    """Foreign embedding *and* head tell of another verifier; a head of other tokens of another map.

    A head that is merely another may be a trained one, as SafeAILab's trainer and those after it make;
    unless the file is ``recorded``, of a writer that freezes both.  Rows that are near their own, or that the
    config says were trained, are warnings already (``validate.rows_check``) and tell of nothing foreign.
    """
    wrong = [check for check in failures(checks) if check.name in ENDS]
    rest = [check for check in checks if check not in wrong]
    if len(wrong) == len(ENDS):
        detail = "rows of embedding and head are not this verifier's: " + wrong[0].detail
        return [*rest, Check("verifier is the one meant", False, detail)]
    if wrong and wrong[0].name == ENDS[1] and is_reduced(document):
        told = map_of_head(folder_tensors, verifier_dir)
        if told is not None:
            return [*rest, told]
    may_be_trained = {ENDS[0]: False, ENDS[1]: not recorded}
    return [*rest, *(one._replace(severity="warning") if may_be_trained[one.name] else one for one in wrong)]


def map_of_head(tensors: Mapping[str, Stored], verifier_dir: Path) -> Check | None:
    """What is wrong with the map where every row of the draft's head is the verifier's row of some token."""
    try:
        verifier = load_verifier_weights(verifier_dir).head
    except StageError:
        return None
    head = load_stored(tensors["lm_head.weight"]).to(verifier.dtype)
    tokens = {row.float().numpy().tobytes(): token for token, row in enumerate(verifier)}
    found = [tokens.get(row.float().numpy().tobytes()) for row in head]
    if None in found:
        return None
    stored = load_stored(tensors["d2t"])
    if torch.equal(torch.tensor(found), stored):
        detail = f"d2t holds absolute ids {found[:3]}...: the head's rows are those of these tokens"
        return Check(HOLDS_OFFSETS, False, detail)
    ids = from_offsets(stored)
    off = torch.tensor(found) != ids
    first = int(off.nonzero()[0])
    row = f"row {first} is token {found[first]}'s, d2t says {int(ids[first])}"
    return Check("d2t fits the head", False, f"{int(off.sum())} of {len(off)} rows; {row}")
