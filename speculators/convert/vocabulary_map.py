"""Vocabulary maps of other trainers: absolute ids or offsets, with or without membership.

The format stores offsets.  Absolute ids read as offsets lead to other tokens, mostly valid ones, and
nothing fails but acceptance; so a map that fits both readings is not guessed at.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from speculators.checkpoint.vocabulary import from_offsets, to_offsets
from speculators.errors import StageError

#: How a stored map can be read.
OFFSETS, ABSOLUTE = "offsets", "absolute ids"


class DraftVocabulary(NamedTuple):
    """``ids`` [Vd] int64 ascending; ``order`` [Vd]: rows of the stored head in that order, or None."""

    ids: torch.Tensor
    order: torch.Tensor | None
    by: str


def read_map(
    d2t: torch.Tensor | None, t2d: torch.Tensor | None, vocab_size: int, place: str, rows: int | None = None
) -> DraftVocabulary:
    """The draft's verifier ids from whatever is stored.

    ``rows``: of the draft's head, where it is stored.

    Raises:
        StageError: the maps are missing, contradict each other or fit both readings.
    """
    for name, found, size in (("d2t", d2t, rows), ("t2d", t2d, vocab_size)):
        if found is not None and (found.dim() != 1 or len(found) != (size or len(found))):
            raise _unclear(place, f"{name} is {list(found.shape)}, not [{size or 'tokens of the draft'}]")
    members = None if t2d is None else t2d.bool().nonzero().flatten()  # [Vd]
    if d2t is None:
        if members is None:
            raise _unclear(place, "neither d2t nor t2d, so nothing says which tokens the draft's are")
        if len(members) != (rows or len(members)):
            raise _unclear(place, f"t2d marks {len(members)} tokens, and the head has {rows} rows")
        return DraftVocabulary(members, None, "t2d: its marked tokens, ascending")
    if not torch.equal(d2t.to(torch.int64).to(d2t.dtype), d2t):
        raise _unclear(place, f"d2t holds {d2t.dtype} values that are no whole numbers")
    sound = sound_readings(d2t, members, vocab_size)
    if not sound:
        raise _unclear(
            place, "d2t is neither offsets nor absolute ids of distinct tokens that t2d agrees with"
        )
    if len(sound) > 1:
        ends = ", ".join(f"{name}: {ids[:3].tolist()}..{int(ids[-1])}" for name, ids in sound.items())
        raise _unclear(place, f"d2t can be read both ways ({ends}) and there is no t2d to tell")
    ((name, ids),) = sound.items()
    told = f"d2t read as {name}, " + ("as t2d says" if members is not None else "the only sound reading")
    ascending, order = ids.sort()
    return DraftVocabulary(ascending, None if torch.equal(ascending, ids) else order, told)


def require_every_token(d2t: torch.Tensor, vocab_size: int, place: str) -> None:
    """Refuse the map of a head with a row for each token that leads to others: engines read none of such.

    Raises:
        StageError: it is neither zeros, as offsets, nor counting, as ids.
    """
    ids = torch.arange(vocab_size)
    if d2t.shape != ids.shape or not any(torch.equal(d2t.long(), same) for same in (ids, 0 * ids)):
        raise _unclear(place, f"the head has a row for each of {vocab_size} tokens, but d2t leads to others")


def sound_readings(
    d2t: torch.Tensor, members: torch.Tensor | None, vocab_size: int
) -> dict[str, torch.Tensor]:
    """The verifier ids [Vd] that ``d2t`` can mean, by how it is read.

    ``members``: the ids that ``t2d`` marks, ascending, which a sound reading leads to.
    """
    stored = d2t.to(torch.int64).flatten()
    readings = {OFFSETS: from_offsets(stored), ABSOLUTE: stored}
    return {
        name: ids
        for name, ids in readings.items()
        if _is_sound(ids, vocab_size) and (members is None or torch.equal(ids.sort().values, members))
    }


def offsets(vocabulary: DraftVocabulary) -> torch.Tensor:
    """The ``d2t`` [Vd] of the format."""
    return to_offsets(vocabulary.ids)


def _is_sound(ids: torch.Tensor, vocab_size: int) -> bool:
    """Distinct tokens of the verifier, and not a map that nobody filled in."""
    inside = bool((ids >= 0).all() and (ids < vocab_size).all())
    trivial = torch.equal(ids, torch.arange(len(ids))) or torch.equal(ids, 2 * torch.arange(len(ids)))
    return inside and len(ids.unique()) == len(ids) and not trivial


def _unclear(place: str, problem: str) -> StageError:
    hint = "get the map from whoever trained the draft; a wrong one drafts wrong tokens without an error"
    return StageError(f"{place}: {problem}", hint=hint, rule="vocabulary-map")
