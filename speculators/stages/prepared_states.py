"""Stage ``hidden_states`` of a recipe that brings a prepared dataset: its rows and states become our shards.

Nothing is generated or captured.  What a capture would have proved must be proved of somebody else's files
instead: that they belong to these rows, this verifier and these layers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from speculators.checkpoint.verifier_weights import load_verifier_weights
from speculators.datagen import probe
from speculators.datagen.capture import check_range
from speculators.datagen.continuation import FinishedShard, finished_shards, read_record, record_shard
from speculators.datagen.disk import require_space, states_bytes
from speculators.datagen.ledger import LEDGER, Entry, summary
from speculators.datagen.loops import is_looping
from speculators.datagen.prepared import prepared_problem, state_files
from speculators.datagen.prepared_rows import Piece, conversations, pieces, read_rows, row_states
from speculators.datagen.selection import normalised
from speculators.datagen.shards import Document, write_shard
from speculators.datagen.splits import validation_topics
from speculators.documents import read_jsonl, write_json
from speculators.errors import StageError
from speculators.recipe.view import PREPARED
from speculators.stages.documents import StageInput
from speculators.stages.hidden_states import DTYPE, PROBE, close, judge, shape

OTHER_LAYERS = (
    "no file says of which layers its states are: set algorithm.aux_layers to those that they equal, or name "
    "the verifier that they were generated with"
)
#: Tokens of a probed row: a prefix is its own proof, and the reference forward is slow on a CPU.
PROBED_TOKENS = 512


class Prepared(NamedTuple):
    """What is taken of a dataset: its pieces with the conversation of each, and the fate of its rows."""

    folder: Path
    files: dict[int, Path]
    pieces: list[Piece]
    groups: list[str]
    held_out: frozenset[str]
    ledger: dict[str, Any]

    def documents(self, numbers: Iterable[int], layers: int, width: int) -> Iterator[Document]:
        """The pieces of these numbers with their states, read as they are asked for."""
        row, states = -1, torch.empty(0)
        for number in numbers:
            piece, group = self.pieces[number], self.groups[number]
            if piece.row != row:  # pieces of one row lie side by side
                row = piece.row
                states = row_states(self.files[row], piece.row_ids, layers, width)  # [T, L, H]
            yield Document(
                id=piece.id,
                group=group,
                split="validation" if group in self.held_out else "train",
                looping=is_looping(_learnt(piece)),
                prompt_tokens=piece.start,
                token_ids=torch.from_numpy(piece.row_ids[: piece.end].copy()),  # [T'], T' <= T
                hidden_states=states[: piece.end],  # [T', L, H]
            )


def look(step: StageInput) -> Prepared:
    """The dataset's rows, chosen and grouped; its states are only counted.

    Raises:
        StageError: it is no prepared dataset, or rows and files of states do not belong together.
    """
    (folder,) = step.files[PREPARED]
    if problem := prepared_problem(folder):
        raise StageError(f"{folder}: {problem[0]}", hint=problem[1], rule="prepared")
    settings, files = step.values["datagen"], state_files(folder)
    rows = list(read_rows(folder))
    if strange := [number for number in files if number >= len(rows)]:
        raise StageError(
            f"{files[strange[0]]}: the dataset has {len(rows)} rows, counted from 0",
            hint="these states are of another preparation: generate them again into an empty folder",
            rule="prepared",
        )
    kept: list[Piece] = []
    booked: list[Entry] = []
    asked = _benchmark(step)
    drop_looping = settings["looping_rows"] == "drop"
    for row in rows[: settings["prompts"].get("limit")]:
        learnt = pieces(row)
        if row.number not in files or not learnt:
            booked.append(Entry("no_states" if learnt else "nothing_to_learn", 0, False, ""))
            continue
        for piece in learnt:
            looping = is_looping(_learnt(piece))
            reason = "looping" if looping and drop_looping else asked.reason(piece)
            booked.append(Entry(reason, piece.end - piece.start, looping, ""))
            kept += [] if reason else [piece]
    ledger = summary(booked)
    del ledger["length_limited"]  # the dataset does not say why an answer ended
    if not kept:
        raise StageError(
            f"{folder}: no row is left; dropped {ledger['dropped']}",
            hint="generate the states of its rows, or look at its loss_mask",
            rule="no-rows",
        )
    groups = conversations(kept)
    chosen = settings["prompts"]
    held_out = validation_topics(groups, chosen["validation_fraction"], chosen["seed"])
    return Prepared(folder, files, kept, groups, held_out, ledger)


def _learnt(piece: Piece) -> list[int]:
    ids: list[int] = piece.row_ids[piece.start : piece.end].tolist()
    return ids


class Benchmark(NamedTuple):
    """The benchmark's questions, which no row may contain: they would measure memory."""

    tokenizer: Any
    questions: list[str]

    def reason(self, piece: Piece) -> str | None:
        """Why a piece is left out, or None."""
        if not self.questions:
            return None
        text = normalised(self.tokenizer.decode(piece.row_ids[: piece.end]))
        return "asks_benchmark" if any(question in text for question in self.questions) else None


def _benchmark(step: StageInput) -> Benchmark:
    from transformers import AutoTokenizer

    trusted = step.result_of("verifier")["trust_remote_code"]
    tokenizer = AutoTokenizer.from_pretrained(step.inputs["verifier"] / "model", trust_remote_code=trusted)
    rows = read_jsonl(step.inputs["prompts"] / "benchmark.jsonl")
    asked = [one["content"] for row in rows for one in row["messages"] if one["role"] == "user"]
    # "Hello" is in many a text that was not taken from the benchmark.
    return Benchmark(tokenizer, sorted({text for one in asked if len((text := normalised(one)).split()) > 5}))


def take(step: StageInput) -> dict[str, Any]:
    """Leave shards, index and ``probe.json`` as a capture does, and ``ledger.json``.

    Raises:
        StageError: the dataset, its states or the layers are not what the recipe says.
    """
    # A verifier that training would refuse is refused before its states are copied.
    load_verifier_weights(step.inputs["verifier"] / "model")
    (layers, width), data = shape(step), look(step)
    size = step.values["datagen"]["rows_per_shard"]
    chunks = [range(len(data.pieces))[start : start + size] for start in range(0, len(data.pieces), size)]
    shards = finished_shards("prepared states", step.output, step.work, len(chunks))
    missing = {number: chunk for number, chunk in enumerate(chunks) if number not in shards}
    tokens = sum(data.pieces[one].end for chunk in missing.values() for one in chunk)
    line = require_space(step.output, states_bytes(tokens, len(layers), width, DTYPE.itemsize))
    print(f"prepared states: {tokens} tokens x {len(layers)} layers x {width}: {line}", flush=True)
    probed = read_record(step.work / PROBE) or _probe(step, data, layers, width)
    for number, chunk in missing.items():
        shards[number] = _finish(step, number, data.documents(chunk, len(layers), width))
    write_json(step.output / LEDGER, data.ledger)
    taken = close(step, probed, [shards[number] for number in range(len(chunks))], len(data.pieces))
    return {**taken, "prepared": data.ledger}


def _probe(step: StageInput, data: Prepared, layers: list[int], width: int) -> dict[str, Any]:
    """The golden probe on rows from all over the dataset: files of two preparations may be mixed."""
    count = min(probe.PROMPTS, len(data.pieces))
    chosen = [number * (len(data.pieces) - 1) // max(count - 1, 1) for number in range(count)]
    documents = [_beginning(one) for one in data.documents(chosen, len(layers), width)]
    return judge(step, documents, layers, probe.state_problems, OTHER_LAYERS)


def _beginning(document: Document) -> Document:
    """At most ``PROBED_TOKENS`` of a document."""
    return document._replace(
        prompt_tokens=min(document.prompt_tokens, PROBED_TOKENS),
        token_ids=document.token_ids[:PROBED_TOKENS],
        hidden_states=document.hidden_states[:PROBED_TOKENS],
    )


def _finish(step: StageInput, number: int, documents: Iterable[Document]) -> FinishedShard:
    """Copy the documents' states into one shard, and record it."""
    started, read = time.monotonic(), []
    for document in documents:
        check_range(document, DTYPE)
        read.append(document)
    entry = write_shard(step.output, number, read, DTYPE)
    shard = FinishedShard(entry, {"seconds": time.monotonic() - started})
    record_shard(step.work, number, shard)
    print(f"prepared states: shard {number}, {len(read)} rows, {entry['tokens']} tokens", flush=True)
    return shard
