from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from speculators.checkpoint import weights_file
from speculators.checkpoint.weights_file import (
    Stored,
    joined,
    load_stored,
    mapped,
    read_header,
    reordered,
    write_weights,
)
from speculators.errors import StageError

TENSORS = {
    "b": torch.randn(3, 5),
    "a": torch.randn(2, 3).to(torch.bfloat16),
    "ids": torch.arange(7),
    "mask": torch.tensor([True, False, True]),
    "half": torch.randn(4).half(),
    "small": torch.randn(2, 2).to(torch.float8_e4m3fn),
    "words": torch.tensor([1, 2**31], dtype=torch.uint32),
    "powers": torch.tensor([127, 130], dtype=torch.uint8).view(torch.float8_e8m0fnu),
    "empty": torch.zeros(0, 4),
    "one": torch.tensor(3.5, dtype=torch.float64),
    "café": torch.arange(3, dtype=torch.int32),
}


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    return path


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def test_every_type_reads_back_to_the_bit(stored: Path) -> None:
    entries, metadata = read_header(stored)
    assert metadata == {"format": "pt"}
    assert entries.keys() == TENSORS.keys()
    assert all(same(load_stored(entries[name]).reshape(-1), TENSORS[name].reshape(-1)) for name in TENSORS)
    assert all(entries[name].shape == tuple(TENSORS[name].shape) for name in TENSORS)


@pytest.mark.parametrize("at_once", [7, weights_file.CHUNK_BYTES])
def test_a_copy_is_the_file_that_the_formats_own_writer_writes(
    stored: Path, tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_file, "CHUNK_BYTES", at_once)
    monkeypatch.setattr(weights_file, "SENT_BYTES", 2 * at_once)
    write_weights(tmp_path / "copied", read_header(stored)[0])
    write_weights(tmp_path / "written", TENSORS)
    assert (tmp_path / "copied").read_bytes() == stored.read_bytes()
    assert (tmp_path / "written").read_bytes() == stored.read_bytes()


def test_stored_and_new_tensors_go_into_one_file(stored: Path, tmp_path: Path) -> None:
    entries, _ = read_header(stored)
    pieces: dict[str, Stored | torch.Tensor] = {"renamed": entries["b"], "new": torch.ones(2)}
    write_weights(tmp_path / "mixed", pieces)
    read = load_file(tmp_path / "mixed")
    assert torch.equal(read["renamed"], TENSORS["b"])
    assert torch.equal(read["new"], torch.ones(2))


@pytest.mark.parametrize("at_once", [8, weights_file.CHUNK_BYTES])
def test_a_tensor_joined_of_stored_ones_is_written_from_where_they_lie(
    tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_file, "CHUNK_BYTES", at_once)
    parts = {f"p{number}": torch.randn(3, 5) for number in range(4)}
    save_file(parts, tmp_path / "one", metadata={})
    save_file({"q": torch.randn(2, 3, 5)}, tmp_path / "two")
    entries = read_header(tmp_path / "one")[0] | read_header(tmp_path / "two")[0]
    order = [*(f"p{number}" for number in (2, 0, 3, 1)), "q"]
    piece = joined((6, 3, 5), (entries[name] for name in order))
    seen: dict[str, bytes] = {}

    def watch(name: str, dtype: str, part: memoryview) -> None:
        assert len(part) <= at_once
        assert len(part) % 4 == 0
        seen[name] = seen.get(name, b"") + bytes(part)

    write_weights(tmp_path / "new", {"x": piece}, seen=watch)
    expected = torch.cat(
        [*(parts[f"p{number}"][None] for number in (2, 0, 3, 1)), load_file(tmp_path / "two")["q"]]
    )
    assert torch.equal(load_file(tmp_path / "new")["x"], expected)
    assert seen == {"x": expected.numpy().tobytes()}
    assert torch.equal(mapped(piece), expected)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(7)), st.booleans())
def test_reordered_rows_are_those_of_an_index(tmp_path: Path, order: list[int], on_disk: bool) -> None:
    rows = torch.arange(7 * 3).reshape(7, 3).to(torch.bfloat16)
    save_file({"rows": rows}, tmp_path / "source")
    piece = reordered(read_header(tmp_path / "source")[0]["rows"] if on_disk else rows, order)
    write_weights(tmp_path / "new", {"rows": piece})
    assert same(load_file(tmp_path / "new")["rows"], rows[order])


def test_parts_that_do_not_make_the_whole_are_refused() -> None:
    for parts in ([torch.ones(2, 3)], [torch.ones(2, 3), torch.ones(2, 3).half()]):
        with pytest.raises(ValueError, match=r"do not make \[4, 3\]"):
            joined((4, 3), parts)


def test_a_failed_write_leaves_nothing(stored: Path, tmp_path: Path) -> None:
    lost = read_header(stored)[0]["b"]._replace(path=tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        write_weights(tmp_path / "new", {"b": lost})
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"x": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


EIGHT = b"\0" * 8
DAMAGED: dict[str, tuple[bytes, str]] = {
    "an empty file": (b"", "0 bytes, shorter"),
    "half a prefix": (b"\1\0\0", "3 bytes, shorter"),
    "a header beyond the end": (raw(one(), EIGHT, length=10_000), "shorter than its header says"),
    "a header of exabytes": (raw(one(), EIGHT, length=1 << 62), "shorter than its header says"),
    "no JSON": (raw(b"not json", EIGHT), "its header is not JSON"),
    "no text": (raw(b"\xff\xfe\x00", EIGHT), "its header is not JSON"),
    "JSON that is nested without end": (raw(b"[" * 200_000), "its header is not JSON"),
    "a list": (raw([1, 2]), "not an object"),
    "a name twice": (raw(b'{"x": {}, "x": {}}'), "a key stands twice"),
    "an entry that is a number": (raw({"x": 3}), "no dtype, shape and two offsets"),
    "three offsets": (raw(one(offsets=[0, 4, 8]), EIGHT), "no dtype, shape and two offsets"),
    "an unknown type": (raw(one(dtype="F3"), EIGHT), "is of type 'F3'"),
    "a negative size": (raw(one(shape=[-2, -1]), EIGHT), "no size"),
    "a size that is true": (raw(one(shape=[True, 2]), EIGHT), "no size"),
    "a size beyond counting": (raw(one(shape=[1 << 70]), EIGHT), "no size"),
    "a shape of other bytes": (raw(one(shape=[3]), EIGHT), "in 8 bytes"),
    "a truncated tensor": (raw(one(), EIGHT[:5]), "truncated"),
    "bytes behind the last": (raw(one(), EIGHT + b"tail"), "truncated or padded"),
    "a hole": (raw(one(offsets=[4, 12]), EIGHT + b"tail"), "starts at byte"),
    "an overlap": (raw({**one(), "y": one()["x"]}, EIGHT), "starts at byte"),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_refused_and_the_place_said(tmp_path: Path, damage: tuple[bytes, str]) -> None:
    content, complaint = damage
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(StageError, match=complaint) as refused:
        read_header(path)
    assert refused.value.rule == "weights-damaged"
    assert str(path) in refused.value.message


def test_a_huge_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 1 << 31))
        file.truncate((1 << 31) + 100)  # sparse
    with pytest.raises(StageError, match="the format allows"):
        read_header(path)


def test_who_watches_a_write_sees_every_byte_once_and_no_element_cut(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_file, "CHUNK_BYTES", 16)
    pieces, parts = read_header(stored)[0], {}

    def seen(name: str, dtype: str, part: memoryview) -> None:
        assert dtype == pieces[name].dtype
        assert len(part) % weights_file.SIZES[dtype] == 0
        parts[name] = parts.get(name, b"") + bytes(part)

    write_weights(tmp_path / "copy.safetensors", pieces, seen=seen)
    whole = stored.read_bytes()
    assert parts == {name: whole[one.start : one.end] for name, one in pieces.items() if one.end > one.start}


def test_a_source_that_shrinks_while_it_is_copied_is_said(stored: Path, tmp_path: Path) -> None:
    pieces = read_header(stored)[0]
    last = max(pieces.values(), key=lambda piece: piece.end)
    with stored.open("r+b") as file:
        file.truncate(last.end - 1)
    with pytest.raises(StageError, match=f"ended at byte {last.end - 1} while it was read"):
        write_weights(tmp_path / "copy.safetensors", pieces)
    assert not list(tmp_path.glob("copy*"))
