from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculators.datagen.continuation import (
    FinishedShard,
    finished_shards,
    read_record,
    record_shard,
    write_record,
)
from speculators.documents import file_digest

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def finish(output: Path, number: int) -> FinishedShard:
    path = output / f"shard-{number:05d}.txt"
    path.write_text(f"rows of {number}")
    shard = FinishedShard({"file": path.name, "sha256": file_digest(path)}, {"seconds": number + 0.1})
    record_shard(output / "work", number, shard)
    return shard


def found(output: Path, count: int = 3) -> dict[int, FinishedShard]:
    return finished_shards("example", output, output / "work", count)


def test_whole_shards_are_found_and_the_line_says_how_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = {0: finish(tmp_path, 0), 2: finish(tmp_path, 2)}
    assert found(tmp_path) == shards
    assert capsys.readouterr().out == "example: 2 of 3 shards are there already; continuing\n"


def test_a_first_attempt_finds_nothing_and_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert found(tmp_path) == {}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_shard_is_named_and_the_others_stay(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        finish(tmp_path, number)
    path = tmp_path / "shard-00001.txt"
    if damage == "gone":
        path.unlink()
    else:
        path.write_text("rows of 7" if damage == "changed" else "rows")
    assert sorted(found(tmp_path)) == [0, 2]
    assert str(path) in capsys.readouterr().out
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"sha256": "0", "value": 1}', "\udcff"])
def test_a_damaged_record_makes_its_shard_again(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(tmp_path, 0)
    record = tmp_path / "work" / "shard-00000.json"
    record.write_bytes(text.encode(errors="surrogateescape"))
    assert found(tmp_path) == {}
    assert str(record) in capsys.readouterr().out


def test_what_belongs_to_no_finished_shard_is_removed(tmp_path: Path) -> None:
    finish(tmp_path, 0)
    (tmp_path / "shard-00001.txt").write_text("never recorded")
    (tmp_path / "shard-00002.partial").write_text("half")
    (tmp_path / "index.json").write_text("{}")
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "states").write_text("old")
    found(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard-00000.txt", "work"]


@given(value=VALUES)
def test_a_record_reads_back_as_it_was_written(
    value: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("records") / "value.json"
    write_record(path, value)
    assert read_record(path) == value
