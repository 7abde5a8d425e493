"""Which layers a stranger's ids mean.

Two conventions are in use and nothing in a file says which: "the state after k decoder layers" (this
project, vLLM, the SafeAILab default (2, N/2, N-3)) and "the output of layer k, counted from zero"
(SpecForge, NeMo, ModelOpt: [1, N/2-1, N-4]).  Both trainers' defaults name the same three states.
Read the wrong way, every state is one layer off: position-0 acceptance went from 45 % to 10 %
(vLLM issue 43671), and a guess by the first id lost 0.1 tokens (SGLang pull request 25454).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from speculators.errors import StageError


class Reading(NamedTuple):
    """Ids in this project's convention, and by what they were read so."""

    ids: tuple[int, ...]
    by: str


def default_layers(depth: int) -> tuple[int, ...]:
    """What engines take where no ids are written (vLLM ``model_executor/models/interfaces.py``)."""
    return (2, depth // 2, depth - 3)


def default_ids(depth: int) -> list[int] | None:
    """The same where they are three different layers, in order; None where a verifier is too shallow."""
    ids = list(default_layers(depth))
    return ids if ids == sorted(set(ids)) and ids[0] > 0 else None


def read_layer_ids(ids: Sequence[int] | None, depth: int | None, count: int, place: str) -> Reading:
    """EAGLE-3 ids of a verifier with ``depth`` layers, where ``fc`` reads ``count`` states.

    Raises:
        StageError: they can be read both ways, or are missing and cannot be reckoned.
    """
    if not ids:
        assumed = default_ids(depth or 0)
        if assumed is None or count != len(assumed):
            raise undecided(
                place, f"no layer ids, and fc reads {count} states of {depth or 'unknown'} layers"
            )
        return Reading(tuple(assumed), f"none written: every engine's default for {depth} layers")
    given = tuple(ids)
    after, output = given, tuple(layer + 1 for layer in given)
    if depth is not None:
        if given == default_layers(depth):
            return Reading(after, f"they are the default after-layer ids of {depth} layers")
        if output == default_layers(depth):
            return Reading(output, f"they are the default layer-output ids of {depth} layers; one was added")
        if max(given) == depth:
            return Reading(after, f"layer {depth} exists only where 0 means the embeddings")
    raise undecided(
        place,
        f"layer ids {list(given)} can mean the states after {list(after)} layers, or the outputs of layers "
        f"{list(given)} counted from zero, which are the states after {list(output)} layers",
    )


def undecided(place: str, problem: str) -> StageError:
    """The stop before a guess."""
    hint = (
        "say which: --aux-layers A,B,C counts decoder layers before the state (0 = embeddings); "
        "the producer's documentation or 'speculators inspect DIR --probe' tells"
    )
    return StageError(f"{place}: {problem}", hint=hint, rule="layer-id-convention")
