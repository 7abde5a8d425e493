"""Training data of the quality comparison: nested subsets of one capture, in both systems' formats.

A subset holds whole documents with so many supervised tokens; a smaller one lies within a larger one, and
every one has the same held-out documents.  So more data is the only difference between two sizes, and the
system the only one within a size.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

from speculators.checkpoint.vocabulary import select_draft_ids, token_frequencies
from speculators.datagen.shards import (
    Document,
    read_documents,
    read_index,
    write_index,
    write_shard,
)
from speculators.documents import known_json, value_digest, write_json
from speculators.errors import RecipeError, StageError

RECORD = "subset.json"
READY = "ready.json"
ROWS_PER_SHARD = 64


class Prepared(NamedTuple):
    """A subset as the reference reads it: its folder, and how many rows train of how many."""

    folder: Path
    train: int
    rows: int

    @property
    def train_ratio(self) -> float:
        """A ratio that the reference, which rounds rows x ratio down, turns into ``train``."""
        return (self.train + 0.5) / self.rows


def nested(supervised: Sequence[int], size: int, seed: int) -> list[int]:
    """Places of the documents that hold ``size`` supervised tokens, ascending.

    ``supervised``: tokens to learn of each document.  Documents are taken in an order that depends on the
    seed alone until they hold enough, so a smaller size is part of a larger one.

    Raises:
        RecipeError: all of them hold less.
    """
    order = list(range(len(supervised)))
    random.Random(seed).shuffle(order)
    taken: list[int] = []
    held = 0
    for place in order:
        if held >= size:
            break
        taken.append(place)
        held += supervised[place]
    if held < size:
        raise RecipeError(
            f"the training documents hold {held} supervised tokens, {size} are wanted",
            hint="more prompts (--set datagen.prompts.magpie.count=N), or a smaller size",
            rule="too-little-data",
        )
    return sorted(taken)


def subset(states: Path, folder: Path, size: int, seed: int) -> Path:
    """The subset of ``size`` supervised tokens of the ``states`` output, cut into ``folder`` if need be.

    Raises:
        RecipeError: the output holds less.
        StageError: ``folder`` holds a subset of other data.
    """
    index = read_index(states)
    train = [row for entry in index["shards"] for row in entry["rows"] if row["split"] == "train"]
    supervised = [row["tokens"] - row["prompt_tokens"] for row in train]
    kept = nested(supervised, size, seed)
    record = {
        "source": value_digest([entry["sha256"] for entry in index["shards"]]),
        "size": size,
        "seed": seed,
        "documents": len(kept),
        "supervised_tokens": sum(supervised[place] for place in kept),
        "tokens": sum(train[place]["tokens"] for place in kept),
    }
    if known := known_json(folder / RECORD):
        require_same(folder, known, record)
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted attempt left
    folder.mkdir(parents=True)
    documents = selected(read_documents(states), set(kept))
    shards: list[dict[str, Any]] = []
    while chunk := list(islice(documents, ROWS_PER_SHARD)):
        shards.append(write_shard(folder, len(shards), chunk, chunk[0].hidden_states.dtype))
    write_index(folder, index["layers"], index["hidden_size"], index["dtype"], shards)
    write_json(folder / RECORD, record)
    return folder


def selected(documents: Iterable[Document], kept: Collection[int]) -> Iterator[Document]:
    """All documents but the training ones whose place among those is not ``kept``."""
    place = -1
    for document in documents:
        place += document.split == "train"
        if document.split != "train" or place in kept:
            yield document


def require_same(folder: Path, known: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse what an earlier comparison with other settings left.

    Raises:
        StageError: naming the settings that differ.
    """
    differing = sorted(name for name in known.keys() | wanted.keys() if known.get(name) != wanted.get(name))
    if differing:
        raise StageError(
            f"{folder}: was made with other settings: "
            + ", ".join(f"{name} {known.get(name)}, now {wanted.get(name)}" for name in differing),
            hint="compare in another --folder, or remove this one",
            rule="other-settings",
        )


def draft_ids(folder: Path, vocab_size: int, size: int) -> torch.Tensor:
    """The draft vocabulary of a subset, by the rule of this project's trainer: [Vd] int64, ascending."""
    return select_draft_ids(token_frequencies(read_documents(folder, "train"), vocab_size), size)


def for_reference(folder: Path, target: Path, vocab_size: int, size: int) -> Prepared:
    """A subset as the reference's ``prepare-data`` and ``generate-offline-data`` leave one, in ``target``.

    A data set of ``input_ids``, ``loss_mask`` (1: generated) and ``seq_len``, the training rows first; one
    file of states a row; and the draft vocabulary as its ``d2t`` (offsets) and ``t2d`` arrays.
    """
    if known := known_json(target / READY):
        return Prepared(target, known["train"], known["rows"])
    import numpy as np
    from datasets import Dataset
    from safetensors.torch import save_file

    shutil.rmtree(target, ignore_errors=True)
    states = target / "hidden_states"
    states.mkdir(parents=True)
    columns: dict[str, list[Any]] = {"input_ids": [], "loss_mask": [], "seq_len": []}
    for split in ("train", "validation"):
        for document in read_documents(folder, split):
            length = len(document.token_ids)
            tensors = {"hidden_states": document.hidden_states, "token_ids": document.token_ids}
            contiguous = {name: tensor.clone() for name, tensor in tensors.items()}
            save_file(contiguous, states / f"hs_{len(columns['seq_len'])}.safetensors")
            columns["input_ids"].append(document.token_ids.tolist())
            columns["loss_mask"].append([int(place >= document.prompt_tokens) for place in range(length)])
            columns["seq_len"].append(length)
        if split == "train":
            train = len(columns["seq_len"])
    Dataset.from_dict(columns).with_format("torch").save_to_disk(str(target))
    ids = draft_ids(folder, vocab_size, size)  # [Vd]
    spoken = torch.zeros(vocab_size, dtype=torch.bool)
    spoken[ids] = True
    np.save(target / f"d2t-{size}.npy", (ids - torch.arange(size)).numpy())
    np.save(target / f"t2d-{size}.npy", spoken.numpy())
    prepared = Prepared(target, train, len(columns["seq_len"]))
    write_json(target / READY, {"train": prepared.train, "rows": prepared.rows})
    return prepared
