"""Safetensors files by their bytes: headers read with suspicion, tensors copied without loading.

A draft's file comes from strangers, and its header is the only thing that says where a tensor ends.
The reader here refuses what does not add up and says where; the writer takes tensors from file to file
a part at a time, so that renaming two gigabytes of tensors costs a copy and no memory, and every
tensor stays the same to the last bit.  Layout of the format:
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias

from speculators.errors import StageError

if TYPE_CHECKING:
    import torch

    Piece: TypeAlias = "Stored | Joined | torch.Tensor"  # of a file to write

WEIGHTS_NAME = "model.safetensors"
HEADER_LIMIT = 100 * 1024 * 1024  # the format's own
PREFIX = 8  # bytes that say how long the header is
CHUNK_BYTES = 1 << 18  # written at once; with megabytes the page cache takes five times the processor (ext4)
SENT_BYTES = 1 << 24  # written before the disk is told to begin with them

#: Type -> bytes an element, in the order in which the format's own writer ranks types (tensor.rs).
SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2,
    "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip
RANKS = {dtype: rank for rank, dtype in enumerate(SIZES)}


class Stored(NamedTuple):
    """A tensor where it lies: ``start`` and ``end`` are offsets in ``path``."""

    path: Path
    dtype: str  # of SIZES
    shape: tuple[int, ...]
    start: int
    end: int


class Joined(NamedTuple):
    """A tensor whose bytes are those of ``parts`` of one type, one behind the other (``joined``)."""

    shape: tuple[int, ...]
    parts: tuple[Stored | torch.Tensor, ...]


def joined(shape: tuple[int, ...], parts: Iterable[Stored | torch.Tensor]) -> Joined:
    """One tensor out of others, which stay where they are until it is written.

    Raises:
        ValueError: they are of several types, or have not as many elements as ``shape``.
    """
    found = tuple(parts)
    kinds = [described(part) for part in found]
    if len({dtype for dtype, _ in kinds}) != 1 or sum(math.prod(size) for _, size in kinds) != math.prod(
        shape
    ):
        raise ValueError(f"parts {sorted(set(kinds))} do not make {list(shape)}")
    return Joined(shape, found)


def rows_of(piece: Stored | torch.Tensor, start: int, stop: int) -> Stored | torch.Tensor:
    """Rows ``start .. stop`` of the first axis, where they lie."""
    if not isinstance(piece, Stored):
        return piece[start:stop]
    each = (piece.end - piece.start) // piece.shape[0]
    begin, end = piece.start + start * each, piece.start + stop * each
    return piece._replace(shape=(stop - start, *piece.shape[1:]), start=begin, end=end)


def reordered(piece: Stored | torch.Tensor, order: Sequence[int]) -> Joined:
    """The rows ``order`` of ``piece``, those that follow each other taken at once."""
    parts, first = [], 0
    for place in range(1, len(order) + 1):
        if place == len(order) or order[place] != order[place - 1] + 1:
            parts.append(rows_of(piece, order[first], order[place - 1] + 1))
            first = place
    return joined((len(order), *piece.shape[1:]), parts)


def read_header(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """Every tensor of a safetensors file, and the file's metadata.

    Raises:
        StageError: it is no file or truncated, or its header is not one, too large, or contradicts
            itself or the file's size, or this user may not read it.
    """
    if not path.is_file():  # a link to nothing or to a device, a pipe that nobody writes to
        raise damaged(path, "not a regular file")
    if not os.access(path, os.R_OK):
        hint = "name a file that this user may read"
        raise StageError(f"{path}: cannot be read: no permission", hint=hint, rule="weights-damaged")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(PREFIX), "little")
        if size < PREFIX or length > size - PREFIX:
            raise damaged(path, f"{size} bytes, shorter than its header says ({length})")
        if length > HEADER_LIMIT:
            raise damaged(path, f"a header of {length} bytes, the format allows {HEADER_LIMIT}")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise damaged(path, "its header is not an object")
    metadata = header.pop("__metadata__", {})
    begin = PREFIX + length
    stored = {name: _entry(path, name, entry, begin) for name, entry in header.items()}
    _require_whole(path, stored, begin, size)
    return stored, metadata if isinstance(metadata, dict) else {}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _entry(path: Path, name: str, entry: Any, begin: int) -> Stored:
    """One tensor of the header, its offsets counted from the start of the file."""
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, start, end]
    except (TypeError, KeyError, ValueError) as error:
        raise damaged(path, f"{name!r} has no dtype, shape and two offsets") from error
    if dtype not in SIZES:
        raise damaged(path, f"{name!r} is of type {dtype!r}, known: {', '.join(SIZES)}")
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
        raise damaged(path, f"{name!r} has a shape or an offset that is no size")
    if math.prod(shape) * SIZES[dtype] != end - start:
        raise damaged(path, f"{name!r} is {dtype} {shape} in {end - start} bytes")
    return Stored(path, dtype, tuple(shape), begin + start, begin + end)


def _require_whole(path: Path, stored: Mapping[str, Stored], begin: int, size: int) -> None:
    """Tensors cover the rest of the file exactly: no hole, no overlap, nothing behind the last."""
    place = begin
    for name, tensor in sorted(stored.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start != place:
            raise damaged(path, f"{name!r} starts at byte {tensor.start}, the one before ends at {place}")
        place = tensor.end
    if place != size:
        raise damaged(path, f"{size} bytes, but its tensors end at {place}: truncated or padded")


def damaged(path: Path, problem: str) -> StageError:
    """The refusal of a weight file."""
    return StageError(f"{path}: {problem}", hint="copy or download the file again", rule="weights-damaged")


def write_weights(
    path: Path,
    pieces: Mapping[str, Piece],
    metadata: Mapping[str, str] | None = None,
    seen: Callable[[str, str, memoryview], None] | None = None,
) -> None:
    """Write ``pieces`` as one safetensors file, whole or not at all.

    ``metadata``: written beside the format's own, in alphabetical order; the format's own writer has
    no order for it, and the same content must be the same file.
    ``seen``: given name, type and bytes of every part as it is written, so that who checks what was written
    need not read it again; no element is cut by the end of a part.

    Tensors lie in the order of the format's own writer (wider types first, then by name), so the
    same content is the same file whoever wrote it.
    """
    kinds = {name: described(piece) for name, piece in pieces.items()}
    order = sorted(kinds, key=lambda name: (-RANKS[kinds[name][0]], name))
    header: dict[str, Any] = {"__metadata__": dict(sorted({"format": "pt", **(metadata or {})}.items()))}
    place = 0
    for name in order:
        dtype, shape = kinds[name]
        end = place + math.prod(shape) * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % PREFIX)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb", buffering=0) as file:
            _write_all(file, len(text).to_bytes(PREFIX, "little") + text)
            sent = 0
            for name in order:
                for part in in_chunks(pieces[name]):
                    _write_all(file, part)
                    if (place := file.tell()) - sent >= SENT_BYTES:
                        begin_writing_back(file, sent, place)
                        sent = place
                    if seen is not None:
                        seen(name, kinds[name][0], part)
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def described(piece: Piece) -> tuple[str, tuple[int, ...]]:
    """Type, by the format's name, and shape."""
    if isinstance(piece, Joined):
        return described(piece.parts[0])[0], piece.shape
    if isinstance(piece, Stored):
        return piece.dtype, piece.shape
    return torch_names()[piece.dtype], tuple(piece.shape)


def torch_names() -> dict[torch.dtype, str]:
    """torch's types -> the format's."""
    import torch

    return {
        torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
        torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
        torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16",
        torch.bool: "BOOL", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
        torch.float8_e8m0fnu: "F8_E8M0",
    }  # fmt: skip


def begin_writing_back(file: BinaryIO, start: int, end: int) -> None:
    """Sends bytes ``start .. end`` on to the disk without waiting, where the platform can be asked to.

    Left alone, the disk idles until the final sync and the writer during it.  The advice (Linux:
    ``mm/fadvise.c``) starts writing back what is unwritten and forgets only what is written already,
    so what was just written stays in memory.  A sync a part would wait for everybody's data each time.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), start, end - start, os.POSIX_FADV_DONTNEED)


def in_chunks(piece: Piece) -> Iterator[memoryview]:
    """The bytes of a tensor, a part at a time; a part is good until the next is asked for.

    Raises:
        StageError: the file ended before the tensor.
    """
    parts = piece.parts if isinstance(piece, Joined) else (piece,)
    for is_stored, run in groupby(parts, key=lambda part: isinstance(part, Stored)):
        read = _stored_chunks if is_stored else _tensor_bytes
        yield from read(run)


def _stored_chunks(parts: Iterable[Any]) -> Iterator[memoryview]:
    """Bytes of stored tensors of one type, through one buffer, however small each is."""
    buffer, filled = memoryview(bytearray(CHUNK_BYTES)), 0
    for path, there in groupby(parts, key=lambda part: part.path):
        with path.open("rb", buffering=0) as file:
            for part in there:
                place = file.seek(part.start)
                while place < part.end:
                    room = buffer[filled : filled + part.end - place]
                    if not (read := file.readinto(room)):
                        raise damaged(path, f"ended at byte {place} while it was read")
                    place, filled = place + read, filled + read
                    if filled == len(buffer):
                        yield buffer
                        filled = 0
    if filled:
        yield buffer[:filled]


def _tensor_bytes(tensors: Iterable[Any]) -> Iterator[memoryview]:
    import torch

    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            yield memoryview(flat.view(torch.uint8).numpy())


def _write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """An unbuffered write may take a part only."""
    view = memoryview(data)
    while len(view):
        view = view[file.write(view) :]


def load_stored(piece: Stored) -> torch.Tensor:
    """The tensor itself, in its own memory."""
    import torch

    types = {name: dtype for dtype, name in torch_names().items()}
    if piece.dtype not in types:
        raise damaged(piece.path, f"holds {piece.dtype}, which torch is not asked to read here")
    data = bytearray(piece.end - piece.start)
    with piece.path.open("rb") as file:
        file.seek(piece.start)
        file.readinto(data)
    if not data:
        return torch.empty(piece.shape, dtype=types[piece.dtype])
    return torch.frombuffer(data, dtype=types[piece.dtype]).reshape(piece.shape)


def mapped(piece: Piece) -> torch.Tensor:
    """The tensor as pages of its file: reading it once takes no memory that the system cannot take back.

    One that is joined of several is copied.
    """
    import torch

    if isinstance(piece, Joined):
        return torch.cat([mapped(part).reshape(-1) for part in piece.parts]).reshape(piece.shape)
    if not isinstance(piece, Stored):
        return piece
    types = {name: dtype for dtype, name in torch_names().items()}
    if piece.dtype not in types or piece.start % SIZES[piece.dtype]:
        return load_stored(piece)  # refuses the type, or copies what does not lie as a processor wants it
    raw = torch.from_file(str(piece.path), shared=False, size=piece.end, dtype=torch.uint8)
    return raw[piece.start :].view(types[piece.dtype]).reshape(piece.shape)
