"""What became of every field: a conversion says it, or it cannot be trusted.

The account of a config is the difference of two documents, key by key to the innermost: whether a value was
kept is looked at, and what the converter meant to do plays no part in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from speculators.checkpoint.rope import FULL, ORIGINAL
from speculators.checkpoint.verifier_layout import TEXT_CONFIGS

KEPT, RENAMED, DERIVED, DROPPED = "kept", "renamed", "derived", "dropped"

LAYER = "transformer_layer_config."
ROPE = f"{LAYER}rope_parameters."

#: How a source's path begins -> how those begin that the same value has in a converted document.
SECTIONS: dict[str, tuple[str, ...]] = {
    f"rope_parameters.{FULL}.": (ROPE,),
    "rope_scaling.": (ROPE,),
    **{f"{block}.": ("", LAYER) for block in ("eagle_config", "dflash_config", *TEXT_CONFIGS)},
    "": ("", LAYER),
}

#: Source's path -> the format's, where the key has another name there.
MOVED = {
    "rope_theta": f"{ROPE}rope_theta",
    "partial_rotary_factor": f"{ROPE}partial_rotary_factor",
    "rotary_pct": f"{ROPE}partial_rotary_factor",
    ORIGINAL: f"{ROPE}{ORIGINAL}",
    "rope_scaling.type": f"{ROPE}rope_type",
    "dflash_config.target_layer_ids": "aux_hidden_state_layer_ids",
    "dflash_config.causal": "sliding_window_non_causal",
}

#: Keys that have no place in the format, and why; any other has no reader.
UNREAD = {
    "auto_map": "it points at Python code, which engines do not run",
    "use_cache": "serving decides",
    "use_aux_hidden_state": "the format has no draft that reads the last state only",
    "torch_dtype": "each tensor says its own type",
    "dtype": "each tensor says its own type",
    "pretraining_tp": "a trainer's setting",
    "_name_or_path": "a path of the machine that wrote it",
    "transformers_version": "of the writer",
    "num_target_layers": "the verifier's config says it",
    "bias": "the bias after fc; its tensor decides",
    "quantization_config": "how the verifier is stored; each tensor of the draft says its own type",
}

#: Target's path, or its beginning up to a dot -> where a value comes from that no source says.
REASONS = {
    "architectures": "the class that vLLM serves it by",
    "speculators_model_type": "the format's name of this kind",
    "speculators_version": "of the writer",
    "speculators_config.": "by what the format is recognised",
    "speculators_config.verifier.": "as named, and as its config says",
    f"{ROPE}{ORIGINAL}": "as vLLM takes it: beside the block before inside it, else max_position_embeddings",
    f"{LAYER}model_type": "the decoder that these tensors are of",
    f"{LAYER}tie_word_embeddings": "an own head is stored, or the verifier's is shared",
    "tie_word_embeddings": "an own head is stored, or the verifier's is shared",
    "": "the format has it written out",
}


class Fate(NamedTuple):
    """One field or tensor of the source, or one that the target has beside them."""

    name: str  # in the source; in the target where the source has none
    fate: str  # KEPT, RENAMED, DERIVED or DROPPED
    target: str = ""  # its name or value in the target
    why: str = ""


def account(
    source: Mapping[str, Any],
    target: Mapping[str, Any],
    reasons: Mapping[str, str] | None = None,
    readings: Mapping[str, str] | None = None,
) -> list[Fate]:
    """What became of every value of the config ``source`` in ``target``, and what only that one has.

    ``reasons``: target's path -> where a value comes from that is not the source's, before ``REASONS``.
    ``readings``: target's path -> by what a value was read as it was, said even where it is the same.
    """
    readings = readings or {}
    known, there = {**REASONS, **(reasons or {}), **readings}, flattened(target)
    fates: list[Fate] = []
    told: set[str] = set()
    for path, value in _leaves(source, there):
        found = places(path, there)
        same = [place for place in found if _same(value, there[place])]
        if same:
            fates.append(_moved(path, same, readings.get(same[0], "")))
        elif found:
            changed = there[found[0]]
            same = [place for place in found if _same(changed, there[place])]
            said = str(changed) if same[0] == path else f"{same[0]} = {changed}"
            fates.append(Fate(path, DERIVED, said, _reason(same[0], known)))
        else:
            why = "null says nothing" if value is None else UNREAD.get(path.rpartition(".")[2])
            fates.append(Fate(path, DROPPED, "", why or "no reader of the format has a use for it"))
        told |= set(same)
    left = {path: value for path, value in there.items() if path not in told}
    return fates + [Fate(path, DERIVED, str(value), _reason(path, known)) for path, value in left.items()]


def flattened(document: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """Every value by its path, ``a.b`` for b in a; a list, and an object without keys, is a value."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        inner = isinstance(value, Mapping) and value
        found |= flattened(value, f"{start}{key}.") if inner else {f"{start}{key}": value}
    return found


def places(path: str, target: Mapping[str, Any]) -> list[str]:
    """Where a source's value stands in the flattened ``target``, if anywhere."""
    named = [MOVED[path]] if path in MOVED else []
    for start, others in SECTIONS.items():
        if path.startswith(start):
            named += [other + path.removeprefix(start) for other in others]
    return [place for place in dict.fromkeys(named) if place in target]


def _leaves(source: Mapping[str, Any], target: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The source's values by path; a block of which nothing has a place is one value."""
    for key, value in source.items():
        inner = flattened({key: value})
        whole = not any(places(path, target) for path in inner)
        yield from [(key, value)] if whole else inner.items()


def _moved(path: str, found: Sequence[str], why: str) -> Fate:
    """The fate of a value that is the same in the places ``found``."""
    own = path.rpartition(".")[2]
    fate = KEPT if all(place.rpartition(".")[2] == own for place in found) else RENAMED
    return Fate(path, fate, "" if path in found else ", ".join(found), why)


def _same(one: Any, other: Any) -> bool:
    """Whether JSON has one text for both: 1, 1.0 and true are three values."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _reason(path: str, reasons: Mapping[str, str]) -> str:
    """The reason of a path itself, of the same key of the layer, or of the nearest block around it."""
    for name in (path, LAYER + path):
        if name in reasons:
            return reasons[name]
    around = [key for key in reasons if (key == "" or key.endswith(".")) and path.startswith(key)]
    return reasons[max(around, key=len)]


def accounted(
    source: Iterable[str], fates: Iterable[Fate], unread: Mapping[str, str], default: str
) -> list[Fate]:
    """``fates`` of tensors, and one for each name of ``source`` that none of them is about.

    ``unread``: why a known name is left out; ``default``: why an unknown one is.
    """
    known = list(fates)
    said = {fate.name for fate in known}
    return known + [Fate(name, DROPPED, "", unread.get(name, default)) for name in source if name not in said]


def kept_or_renamed(source: str, target: str) -> Fate:
    """The fate of something that was only moved."""
    return Fate(source, KEPT if source == target else RENAMED, target)
