"""Every kind of prompt file gives the same rows, says the same count, and names what is wrong with it."""

from __future__ import annotations

import csv
import gzip
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculators.datagen.prompt_files import count_rows, read_rows
from speculators.errors import RecipeError

ROWS = [{"id": "a", "prompt": "Why,\ntwo \u201ctides\u201d?"}, {"id": "b", "prompt": "Who?"}]
LINES = "\n\n".join(json.dumps(row) for row in ROWS)


def a_csv(rows: list[dict[str, str]], path: Path) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "prompt"])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [("p.jsonl", LINES), ("p.json", json.dumps(ROWS, indent=1)), ("p.json", LINES), ("p.ndjson", LINES)],
)
def test_the_suffix_says_how_rows_are_written(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    for path in (tmp_path / name, packed):
        assert [row for _, row in read_rows(path)] == ROWS
        assert count_rows(path) == 2


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1), max_size=5))
def test_a_csv_cell_holds_any_text(texts: list[str]) -> None:
    rows = [{"id": str(number), "prompt": text} for number, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        path = a_csv(rows, Path(folder) / "p.csv")
        assert [row for _, row in read_rows(path)] == rows
        assert count_rows(path) == len(rows)


def test_an_empty_cell_is_no_value_and_a_row_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('id,prompt\n,"two\nlines"\nb,Who?\n')
    assert list(read_rows(path)) == [(3, {"prompt": "two\nlines"}), (4, {"id": "b", "prompt": "Who?"})]


def test_a_line_of_a_text_file_is_a_prompt(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("Why?\n\n  Who? \n")
    assert list(read_rows(tmp_path / "p.txt")) == [(1, {"prompt": "Why?"}), (3, {"prompt": "Who?"})]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.json", b'[{"prompt": "a"},\n{"prompt" 2}]', r"p\.json:2:11: not JSON"),
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt" 2}', r"p\.jsonl:2:11: not JSON"),
        ("p.jsonl.gz", b"\x1f\x8b\x08\x00 cut short", "cannot be read"),
        ("p.jsonl.gz", b"not packed", "cannot be read: Not a gzipped file"),
        ("p.csv", b"prompt\n\xff", "cannot be read: 'utf-8'"),
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt": "a \\ud800"}', r"p\.jsonl:2: half of a surrogate pair"),
        ("p.jsonl", b'{"prompt": "a", "n": ' + b"9" * 5000 + b"}", r"p\.jsonl:1: Exceeds the limit"),
    ],
)
def test_a_file_that_is_not_what_it_is_called_is_named(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecipeError, match=said) as caught:
        list(read_rows(tmp_path / name))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "text"), [("p.csv", "prompt\nhello\n"), ("p.jsonl", '{"prompt": "hello"}\n')]
)
def test_a_mark_that_spreadsheets_write_in_front_is_no_part_of_it(
    tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert [row for _, row in read_rows(tmp_path / name)] == [{"prompt": "hello"}]


def test_a_pair_of_surrogates_is_a_character(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "\\ud83d\\ude00"}\n')
    assert [row for _, row in read_rows(tmp_path / "p.jsonl")] == [{"prompt": "\U0001f600"}]
