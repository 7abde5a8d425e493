"""What a draft's weights are and were trained under, kept with the weights.

A config is edited by hand, by exporters and by other readers' writers; most of its keys leave no trace
in the tensors, so a flipped flag or a shifted layer id serves without a word.  The weight file's
metadata therefore repeats every key that changes arithmetic, and a digest of every tensor, so that
an edit is named for what it is.  Engines do not read it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from speculators.checkpoint.records import CONFIGS
from speculators.documents import canonical_json

#: Names in the weight file's metadata.
TRAINED_AS = "speculators.trained_as"
DIGESTS = "speculators.digests"
DTYPES = "speculators.dtypes"
BLOCKS = "speculators.fc_blocks"

#: Joins the states that a draft reads; its columns are as many blocks as there are states.
FUSED = "fc.weight"

DIGEST_LENGTH = 16  # hex digits: mistakes are told apart, forgers are not the concern here

#: Top-level keys that change no number that the draft computes.
CHANGE_NOTHING = {
    "architectures", "auto_map", "dtype", "embed_requires_grad", "speculators_config", "speculators_version",
    "transformers_version",
}  # fmt: skip


class Change(NamedTuple):
    """A key, or a tensor's type, that is not what the weights were trained under; None where absent."""

    key: str
    trained: Any
    now: Any


def trained_as(document: Mapping[str, Any]) -> str:
    """The metadata's value for a checkpoint with this ``config.json``."""
    return canonical_json({key: value for key, value in document.items() if key not in CHANGE_NOTHING})


def digests(pieces: Mapping[str, Any]) -> str:
    """The metadata's value for a file with these tensors (``weights_file.Stored`` or torch's)."""
    return canonical_json({name: tensor_digest(piece) for name, piece in pieces.items()})


def dtypes(pieces: Mapping[str, Any]) -> str:
    """The metadata's value for a file with tensors of these types: a cast is told from other numbers."""
    from speculators.checkpoint.weights_file import described

    return canonical_json({name: described(piece)[0] for name, piece in pieces.items()})


def tensor_digest(piece: Any) -> str:
    """A digest of a tensor's type, shape and bytes."""
    from speculators.checkpoint.weights_file import described, in_chunks

    digest = hashlib.sha256(repr(described(piece)).encode())
    for chunk in in_chunks(piece):
        digest.update(chunk)
    return digest.hexdigest()[:DIGEST_LENGTH]


def block_digests(piece: Any, width: int) -> list[str]:
    """A digest of each block of ``width`` columns of ``FUSED`` [H, n * width], in order."""
    from speculators.checkpoint.weights_file import mapped

    return [tensor_digest(block.contiguous()) for block in mapped(piece).split(width, dim=1)]


def block_order(metadata: Mapping[str, str], piece: Any) -> list[int | None]:
    """For each column block of ``FUSED`` which one of the trained it is, None for none of them.

    Of equal blocks each is taken once, in its own place where it can be.  Empty where the metadata says
    nothing, or of a tensor of another shape or type.
    """
    trained = _read(metadata, BLOCKS)
    shape = tuple(piece.shape)
    if not isinstance(trained, list) or not all(isinstance(digest, str) for digest in trained):
        return []
    if not trained or len(shape) != 2 or shape[1] % len(trained) or retyped(metadata, {FUSED: piece}):
        return []
    found = block_digests(piece, shape[1] // len(trained))
    own = {place for place, digest in enumerate(found) if digest == trained[place]}
    free: dict[str, list[int]] = {}
    for place, digest in enumerate(trained):
        if place not in own:
            free.setdefault(digest, []).append(place)
    order: list[int | None] = []
    for place, digest in enumerate(found):
        if place in own:
            order.append(place)
        elif free.get(digest):
            order.append(free[digest].pop(0))
        else:  # more copies of a block than were trained, or a block of no training
            order.append(trained.index(digest) if digest in trained else None)
    return order


def changed_tensors(metadata: Mapping[str, str], pieces: Mapping[str, Any]) -> list[str]:
    """Tensors that are not those the metadata knows; none where it says nothing.

    Of one in another type (``retyped``) a digest tells nothing: rounding changes every one.
    """
    known = _object(metadata, DIGESTS)
    told = known.keys() - {change.key for change in retyped(metadata, pieces)}
    return [name for name, piece in pieces.items() if name in told and tensor_digest(piece) != known[name]]


def retyped(metadata: Mapping[str, str], pieces: Mapping[str, Any]) -> list[Change]:
    """Tensors of another type than the metadata's; none where it says nothing."""
    from speculators.checkpoint.weights_file import described

    known = _object(metadata, DTYPES)
    types = {name: described(piece)[0] for name, piece in pieces.items() if name in known}
    return [Change(name, known[name], now) for name, now in types.items() if now != known[name]]


def _object(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    found = _read(metadata, name)
    return found if isinstance(found, dict) else {}


def _read(metadata: Mapping[str, str], name: str) -> Any:
    try:
        return json.loads(metadata.get(name, "null"))
    except (ValueError, TypeError):
        return None


def changes(metadata: Mapping[str, str], document: Mapping[str, Any]) -> list[Change]:
    """Keys of ``config.json`` that differ from the metadata's; none where it says nothing.

    A key that was left open then, and says now what readers take it to be, does not differ.
    """
    trained = _object(metadata, TRAINED_AS)
    if not trained:
        return []
    now = json.loads(trained_as(document))
    usual = _defaults(now.get("speculators_model_type"))
    layer = "transformer_layer_config"
    inner = _compared(trained.pop(layer, {}), now.pop(layer, {}), f"{layer}.")
    own = _compared(trained, now, "")
    return [one for one in own if one.trained is not None or one.now != usual.get(one.key)] + inner


def _defaults(kind: Any) -> dict[str, Any]:
    """What readers take keys to be that a config of this kind leaves open."""
    known = CONFIGS.get(kind) if isinstance(kind, str) else None
    return {field.name: field.default for field in fields(known)} if known else {}


def _compared(one: Any, other: Any, prefix: str) -> list[Change]:
    one, other = (side if isinstance(side, dict) else {} for side in (one, other))
    return [
        Change(prefix + key, one.get(key), other.get(key))
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    ]
