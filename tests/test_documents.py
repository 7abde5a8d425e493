"""Documents and digests: whole files, one spelling, content only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculators.documents import (
    canonical_json,
    file_digest,
    read_json,
    read_jsonl,
    tree_digest,
    value_digest,
    write_json,
    write_jsonl,
)

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_canonical_json_reads_back_as_the_same_value(value):
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_digest_ignores_the_order_of_keys(mapping):
    turned = dict(reversed(list(mapping.items())))
    assert value_digest(mapping) == value_digest(turned)


def test_a_number_that_json_cannot_say_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_a_failed_write_keeps_the_old_document(tmp_path: Path):
    path = tmp_path / "x.json"
    write_json(path, {"version": 1})
    with pytest.raises(TypeError):
        write_json(path, {"version": object()})
    assert read_json(path) == {"version": 1}


def test_jsonl_keeps_rows_in_order(tmp_path: Path):
    rows = [{"id": n, "text": "ä\n"} for n in range(3)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert list(read_jsonl(tmp_path / "rows.jsonl")) == rows


def test_tree_digest_depends_on_names_and_contents_only(tmp_path: Path):
    for folder in ("a", "b"):
        (tmp_path / folder / "sub").mkdir(parents=True)
        (tmp_path / folder / "sub" / "x").write_bytes(b"1")
    assert tree_digest(tmp_path / "a") == tree_digest(tmp_path / "b")
    (tmp_path / "b" / "sub" / "x").rename(tmp_path / "b" / "sub" / "y")
    assert tree_digest(tmp_path / "a") != tree_digest(tmp_path / "b")


def test_tree_digest_of_a_file_is_the_digest_of_its_bytes(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"abc")
    assert tree_digest(tmp_path / "x") == file_digest(tmp_path / "x")
