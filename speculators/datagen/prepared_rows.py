"""Rows and hidden states of a prepared dataset, read as the reference's own trainer reads them.

A row is ``input_ids`` and a ``loss_mask`` of the same length.  ``hidden_states/hs_{row}.safetensors`` holds
``hidden_states`` [T, L, H], the layer axis ascending and the last entry the residual stream before the final
norm, and ``token_ids`` [T] equal to the row's (train/data.py of vllm-project/speculators 0.9.0).  That is the
order of our shards too.  No file says which layers these are: the golden probe has to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from speculators.datagen.prepared import arrow_files
from speculators.errors import MachineError, StageError

__all__ = ["Piece", "conversations", "pieces", "read_rows", "row_states", "spans"]

COLUMNS = ("input_ids", "loss_mask")
#: Of one id, in the order in which ids sort.
SORTED_ID = np.dtype(">u4")


class Row(NamedTuple):
    """``number`` counts from 0 over the whole dataset."""

    number: int
    token_ids: np.ndarray[Any, Any]  # [T] int64
    loss_mask: np.ndarray[Any, Any]  # [T] bool


class Piece(NamedTuple):
    """One supervised span of a row, tokens ``start`` to ``end``, with all that comes before it.

    The reference makes a row of each answer, so that most rows are one piece.
    """

    row: int
    id: str
    start: int
    end: int
    row_ids: np.ndarray[Any, Any]  # [T] int64, of the whole row


def read_rows(folder: Path) -> Iterator[Row]:
    """The rows of a prepared dataset, in order.

    Raises:
        MachineError: pyarrow is not installed.
        StageError: a file is no Arrow file of such rows; names file and row.
    """
    try:
        import pyarrow
        from pyarrow import ipc
    except ImportError as error:
        raise MachineError(
            f"{folder}: its rows are Arrow files, and pyarrow is not installed",
            hint="pip install pyarrow",
            rule="package",
        ) from error
    number = 0
    for path in arrow_files(folder):
        try:
            with pyarrow.memory_map(str(path)) as source, ipc.open_stream(source) as reader:
                for batch in reader:
                    for ids, mask in zip(*(_column(batch, name, path) for name in COLUMNS)):
                        yield _row(path, number, ids, mask)
                        number += 1
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise StageError(
                f"{path}: cannot be read: {error}", hint="prepare the dataset again", rule="prepared"
            ) from error


def _column(batch: Any, name: str, path: Path) -> Any:
    names = batch.schema.names
    if name not in names:
        raise StageError(
            f"{path}: no column '{name}', only {', '.join(names)}",
            hint="a prepared dataset has input_ids and loss_mask; conversations go to datagen.prompts.files",
            rule="prepared",
        )
    return batch.column(name)


def _row(path: Path, number: int, ids: Any, mask: Any) -> Row:
    if ids.values is None or mask.values is None or len(ids.values) != len(mask.values):
        raise StageError(f"{path}: row {number} has no loss_mask of the length of its ids", rule="prepared")
    token_ids, learnt = (part.values.to_numpy(zero_copy_only=False) for part in (ids, mask))
    return Row(number, token_ids.astype(np.int64), learnt.astype(bool))


def spans(loss_mask: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    """Start and end of each run of learnt tokens; nothing foretells a row's first, which is in none."""
    found, place = [], 0
    for learnt, run in groupby(loss_mask.tolist()):
        start, place = max(place, 1), place + sum(1 for _ in run)
        if learnt and start < place:
            found.append((start, place))
    return found


def pieces(row: Row) -> list[Piece]:
    """A piece for each span: what follows a span is not learnt there, and costs states for nothing."""
    found = spans(row.loss_mask)
    names = [f"row-{row.number}" if len(found) == 1 else f"row-{row.number}-{n}" for n in range(len(found))]
    return [Piece(row.number, name, start, end, row.token_ids) for name, (start, end) in zip(names, found)]


def conversations(found: Sequence[Piece]) -> list[str]:
    """For each piece the name of its conversation: the piece whose prompt every other one's begins with.

    The rows were shuffled when they were prepared, and no column says which belong together.  A turn's
    prompt begins with all that was asked before it, so in sorted order a conversation lies together.
    """
    prompts = [piece.row_ids[: piece.start].astype(SORTED_ID).tobytes() for piece in found]
    names, first = [""] * len(found), -1
    for number in sorted(range(len(found)), key=prompts.__getitem__):
        if first < 0 or not prompts[first] or not prompts[number].startswith(prompts[first]):
            first = number
        names[number] = found[first].id
    return names


def row_states(path: Path, token_ids: np.ndarray[Any, Any], layers: int, width: int) -> torch.Tensor:
    """The states [T, L, H] of the row of ``token_ids`` [T].

    Raises:
        StageError: the file cannot be read, belongs to other tokens or to another verifier, was captured
            at another number of layers, or holds states that are no states.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _refused(
            path, f"cannot be read: {error}", "it is cut short or damaged: generate it again"
        ) from error
    if absent := {"hidden_states", "token_ids"} - tensors.keys():
        raise _refused(path, f"has no tensor {' or '.join(sorted(absent))}", "generate it again")
    states, ids = tensors["hidden_states"], tensors["token_ids"]
    if states.dim() != 3 or len(states) != len(ids) or not states.is_floating_point():
        shape = f"{list(states.shape)} ({states.dtype})"
        raise _refused(path, f"hidden_states are {shape} for {len(ids)} tokens", "generate it again")
    if states.shape[2] != width:
        message = f"states are {states.shape[2]} wide, the verifier's are {width}"
        raise _refused(path, message, "name the verifier that the dataset was prepared for")
    if states.shape[1] != layers:
        message = f"holds {states.shape[1]} layers, this draft reads {layers}, the last one included"
        hint = "set algorithm.aux_layers to the ids that the states were generated with, without the last"
        raise _refused(path, message, hint)
    if ids.tolist() != token_ids.tolist():
        message = f"holds states of other tokens than its row ({len(ids)}, the row has {len(token_ids)})"
        raise _refused(
            path, message, "rows and states are of different preparations: generate the states again"
        )
    if bool((states == 0).all(-1).any()):
        raise _refused(
            path, "a token's state is zero", "the engine that wrote it was at fault: generate it again"
        )
    return states


def _refused(path: Path, cause: str, hint: str) -> StageError:
    return StageError(f"{path}: {cause}", hint=hint, rule="prepared")
