"""The drafts one mistake away from a given one: what a wrong config or a wrong export may have changed.

Each differs in one thing only, so that the one that drafts better names what was wrong.  A draft that is
right has no better neighbour.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from itertools import permutations
from typing import Any, NamedTuple

import torch

from speculators.checkpoint.config import stored_format
from speculators.checkpoint.rope import rope_parameters
from speculators.checkpoint.tensors import EMBED_TOKENS, LM_HEAD, is_reduced
from speculators.checkpoint.verifier_weights import VerifierWeights
from speculators.checkpoint.vocabulary import from_offsets, to_offsets
from speculators.convert.layer_ids import default_layers
from speculators.documents import canonical_json

Tensors = Mapping[str, torch.Tensor]


class Neighbour(NamedTuple):
    """``trap``: of docs/checkpoints.md; ``change``: what is another, in words that can be acted on."""

    trap: str
    change: str
    document: Mapping[str, Any]
    tensors: Tensors


class Given(NamedTuple):
    """The draft whose neighbours are looked for, and its verifier.

    ``document`` is complete (``checkpoint.config.completed``); tensors have canonical names.
    """

    document: Mapping[str, Any]
    tensors: Tensors
    text: Mapping[str, Any]  # the verifier's text config
    weights: VerifierWeights

    def with_keys(self, trap: str, change: str, **values: Any) -> Neighbour:
        return Neighbour(trap, change, {**self.document, **values}, self.tensors)

    def with_layer(self, trap: str, change: str, **values: Any) -> Neighbour:
        """Keys of ``transformer_layer_config``, and of the top level where the format repeats them."""
        document = copy.deepcopy(dict(self.document))
        document["transformer_layer_config"].update(values)
        for key in values.keys() & self.document.keys():
            document[key] = values[key]
        return Neighbour(trap, change, document, self.tensors)

    def with_tensors(self, trap: str, change: str, **values: torch.Tensor) -> Neighbour:
        return Neighbour(trap, change, self.document, {**self.tensors, **values})


def neighbours(given: Given) -> list[Neighbour]:
    """Every draft one mistake away, in a fixed order."""
    return [one for mistake in MISTAKES for one in mistake(given)]


def layer_shifts(given: Given) -> Iterator[Neighbour]:
    """Another convention, one id off by one, or the engines' default."""
    key, ids = layer_ids(given.document)
    depth = int(given.text["num_hidden_layers"])
    if key is None:
        return
    wanted = [[layer + step for layer in ids] for step in (1, -1)]
    wanted += [[*ids[:i], ids[i] + step, *ids[i + 1 :]] for i in range(len(ids)) for step in (1, -1)]
    if len(ids) == len(default_layers(depth)):
        wanted.append(list(default_layers(depth)))
    seen = [ids]
    for one in wanted:
        if one not in seen and one == sorted(set(one)) and one[0] >= 0 and one[-1] <= depth:
            seen.append(one)
            yield given.with_keys("D2" if _shifted(ids, one) else "D1", f"{key} {one}", **{key: one})


def _shifted(ids: list[int], other: list[int]) -> bool:
    return len({one - layer for layer, one in zip(ids, other)}) == 1


def layer_ids(document: Mapping[str, Any]) -> tuple[str | None, list[int]]:
    """The key of the captured layers and their ids; no key for a draft that reads the last layer only."""
    known = stored_format(document)
    if known is None or known.layers_key is None:
        return None, []
    return known.layers_key, list(document.get(known.layers_key) or ())


def flag_flips(given: Given) -> Iterator[Neighbour]:
    """Each norm flag the other way; one that would need a tensor that is not there cannot be on."""
    known = stored_format(given.document)
    for flag in known.flags if known else ():
        value = not given.document.get(flag)
        yield given.with_keys("D5", f"{flag} {str(value).lower()}", **{flag: value})


def rotations(given: Given) -> Iterator[Neighbour]:
    """The verifier's RoPE, plain RoPE of usual bases, and none of the scaling."""
    own = rope_parameters(given.document["transformer_layer_config"])
    wanted = [rope_parameters(given.text), {"rope_type": "default", "rope_theta": own["rope_theta"]}]
    wanted += [{**own, "rope_theta": theta} for theta in (1e4, 5e5, 1e6)]
    seen = [own]
    for one in wanted:
        if one not in seen:
            seen.append(one)
            yield given.with_layer("D6", f"rope_parameters {canonical_json(one)}", rope_parameters=one)


def epsilons(given: Given) -> Iterator[Neighbour]:
    """Another epsilon in the norms."""
    own = given.document["transformer_layer_config"].get("rms_norm_eps")
    for one in sorted({1e-6, 1e-5, float(given.text.get("rms_norm_eps", 1e-6))} - {own}):
        yield given.with_layer("D5", f"rms_norm_eps {one:g}", rms_norm_eps=one)


def maps(given: Given) -> Iterator[Neighbour]:
    """``d2t`` read the other way, and as ``t2d`` has it."""
    if "d2t" not in given.tensors or not is_reduced(given.document):
        return
    stored = given.tensors["d2t"].to(torch.int64)
    wanted = {"absolute ids": to_offsets(stored), "shifted by one": stored + 1}
    if "t2d" in given.tensors:
        members = given.tensors["t2d"].bool().nonzero().flatten()
        if len(members) == len(stored):
            wanted["the tokens that t2d marks"] = to_offsets(members)
    for name, offsets in wanted.items():
        if not torch.equal(offsets, stored):
            yield given.with_tensors("D3", f"d2t read as {name}", d2t=offsets)


def fc_orders(given: Given) -> Iterator[Neighbour]:
    """The columns of ``fc`` for the same layers in another order."""
    _, ids = layer_ids(given.document)
    if not 2 <= len(ids) <= 3:  # of more there are too many orders
        return
    chunks = given.tensors["fc.weight"].chunk(len(ids), dim=1)
    for order in list(permutations(range(len(ids))))[1:]:
        layers = [ids[index] for index in order]
        weight = torch.cat([chunks[order.index(place)] for place in range(len(ids))], dim=1)
        yield given.with_tensors("D1", f"fc's columns are for layers {layers}", **{"fc.weight": weight})


def ends(given: Given) -> Iterator[Neighbour]:
    """The verifier's embedding and head rows instead of those that the draft brings."""
    kept = {name: tensor for name, tensor in given.tensors.items() if name != EMBED_TOKENS}
    if EMBED_TOKENS in given.tensors and not _same(given.tensors[EMBED_TOKENS], given.weights.embedding):
        yield Neighbour("D4", "the verifier's embedding", given.document, kept)
    if LM_HEAD in given.tensors and "d2t" in given.tensors and is_reduced(given.document):
        ids = from_offsets(given.tensors["d2t"].to(torch.int64))
        if int(ids.min()) >= 0 and int(ids.max()) < len(given.weights.head):
            rows = given.weights.head[ids]
            if not _same(given.tensors[LM_HEAD], rows):
                yield given.with_tensors("D4", "the verifier's head rows by d2t", **{LM_HEAD: rows})


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool((one.float() == other.to(one.dtype).float()).all())


MISTAKES: tuple[Callable[[Given], Iterator[Neighbour]], ...] = (
    layer_shifts, flag_flips, rotations, epsilons, maps, fc_orders, ends,
)  # fmt: skip
