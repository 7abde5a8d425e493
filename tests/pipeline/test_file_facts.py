"""Remembered digests: never those of other bytes, and never needed."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from speculators.documents import file_digest
from speculators.pipeline import file_facts
from speculators.pipeline.file_facts import LARGE, MEMORY_NAME, digest, remembered


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is worth remembering; the clock is set on instead of waiting for it to settle."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a" * LARGE)
    now = file_facts.time.time
    monkeypatch.setattr(file_facts.time, "time", lambda: now() + 60)
    return path


class Reader:
    """Reads a file's first byte and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, path: Path) -> str:
        self.calls += 1
        with path.open() as file:
            return file.read(1)


def test_a_large_file_is_read_once(large: Path, tmp_path: Path) -> None:
    reader = Reader()
    assert [remembered(large, "first", reader, tmp_path) for _ in range(3)] == ["a"] * 3
    assert reader.calls == 1
    assert digest(large, tmp_path) == file_digest(large)
    (entry,) = json.loads((tmp_path / MEMORY_NAME).read_text()).values()
    assert set(entry) == {"stamp", "first", "sha256"}


def test_other_bytes_of_the_same_size_are_read_even_if_the_time_is_set_back(
    large: Path, tmp_path: Path
) -> None:
    reader, before = Reader(), large.stat()
    assert remembered(large, "first", reader, tmp_path) == "a"
    large.write_bytes(b"b" * LARGE)
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert large.stat().st_mtime_ns == before.st_mtime_ns
    assert remembered(large, "first", reader, tmp_path) == "b"


def test_another_file_in_its_place_is_read(large: Path, tmp_path: Path) -> None:
    reader = Reader()
    remembered(large, "first", reader, tmp_path)
    other = tmp_path / "other"
    other.write_bytes(b"c" * LARGE)
    other.replace(large)
    assert remembered(large, "first", reader, tmp_path) == "c"


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path) -> None:
    path, reader = tmp_path / "new", Reader()
    path.write_bytes(b"a" * LARGE)
    remembered(path, "first", reader, tmp_path)
    assert not (tmp_path / MEMORY_NAME).exists()


def test_small_files_are_not_remembered(large: Path, tmp_path: Path) -> None:
    large.write_bytes(b"a" * (LARGE - 1))
    remembered(large, "first", Reader(), tmp_path)
    assert not (tmp_path / MEMORY_NAME).exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"KEY": 3}', '{"KEY": {"stamp": "x", "first": "z"}}'])
def test_a_damaged_memory_is_no_memory(large: Path, tmp_path: Path, content: str) -> None:
    status = large.stat()
    memory = tmp_path / MEMORY_NAME
    memory.write_text(content.replace("KEY", f"{status.st_dev}:{status.st_ino}"))
    assert remembered(large, "first", Reader(), tmp_path) == "a"
    (entry,) = json.loads(memory.read_text()).values()
    assert entry["first"] == "a"


def test_a_home_that_cannot_be_written_only_costs_time(large: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert remembered(large, "first", Reader(), tmp_path / "file" / "home") == "a"


def test_the_memory_stays_small(large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_facts, "MOST_FILES", 2)
    for name in "bcd":
        path = tmp_path / name
        path.write_bytes(name.encode() * LARGE)
        remembered(path, "first", Reader(), tmp_path)
    entries = json.loads((tmp_path / MEMORY_NAME).read_text())
    assert [entry["first"] for entry in entries.values()] == ["c", "d"]


def _remember_own(home: Path, number: int) -> None:
    file_facts._remember(home / MEMORY_NAME, f"1:{number}", [1, 2, 3], {"sha256": f"{number:064x}"})


def test_processes_at_once_lose_nothing_of_each_other(tmp_path: Path) -> None:
    processes = [multiprocessing.Process(target=_remember_own, args=(tmp_path, n)) for n in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len(json.loads((tmp_path / MEMORY_NAME).read_text())) == 8
