"""YAML text to data with positions: YAML 1.2 types, every refusal with its place, never a crash."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculators.recipe.positions import Mark
from speculators.recipe.yaml_loader import load_yaml
from speculators.recipe.yaml_writer import dump_yaml

# What JSON allows but YAML forbids or folds: control characters, surrogates, its extra line breaks.
TEXT = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Cn"), exclude_characters="\u2028\u2029\ufeff"), max_size=30
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
DATA = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=15,
)


def load(text: str) -> Any:
    document = load_yaml(text, "r.yaml")
    assert document.diagnostics == ()
    return document.data


@given(DATA)
def test_json_reads_as_the_same_data(data: Any) -> None:
    loaded = load(json.dumps(data, ensure_ascii=False))
    assert loaded == data
    assert repr(loaded) == repr(data)  # 1, 1.0 and True are equal but not the same


@given(DATA)
def test_written_yaml_reads_as_the_same_data(data: Any) -> None:
    assert repr(load(dump_yaml(data))) == repr(data)


@given(st.text(max_size=80) | st.text("ab:-[]{}&*!|>'\"#%@,?~ \t\n\r\x00\x85", max_size=40))
def test_no_text_makes_the_loader_raise(text: str) -> None:
    document = load_yaml(text, "r.yaml")
    for item in document.diagnostics:
        assert item.line >= 1
        assert item.col >= 1
        assert item.message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("5E3", 5000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-0.0", -0.0),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("+3", 3),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("y", "y"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("'null'", "null"),
        ('"1e-4"', "1e-4"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("0b11", "0b11"),
        ("=", "="),
        ("1G", "1G"),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: Any) -> None:
    loaded = load(f"a: {text}")["a"]
    assert loaded == value
    assert type(loaded) is type(value)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", (3, 1), "key 'a' is set twice"),
        ("a: &x 1\n", (1, 4), "anchors"),
        ("a: *x\n", (1, 4), "anchors and aliases"),
        ("a: !!str 1\n", (1, 4), "tags"),
        ("<<: {a: 1}\n", (1, 1), "merge keys"),
        ("<<: *x\n", (1, 1), "merge keys"),
        ("a: 0\n<<<<<<< mine\nb: 1\n=======\nb: 2\n>>>>>>> other\n", (2, 1), "a merge is not finished"),
        ("a: .nan\n", (1, 4), "not a finite number"),
        ("a: 1e999\n", (1, 4), "too large"),
        ("a: " + "9" * 400, (1, 4), "too many digits"),
        ("1: a\n", (1, 1), "key 1 is not a string"),
        ("? [a]\n: 1\n", (1, 3), "a key must be a word"),
        ("%YAML 1.1\n---\na: 1\n", (1, 1), "directives"),
        ("a: 1\n---\nb: 2\n", (3, 1), "one document"),
        ("a: 1\n b: 2\n", (2, 3), "mapping values are not allowed"),
        ("a: [1, 2\nb: 3\n", (2, 2), "did not find expected ',' or ']'"),
        ("a: 'x\n", (1, 4), "unexpected end of stream"),
        ("a: \x07\n", (1, 1), "control characters"),
    ],
)
def test_what_a_recipe_may_not_hold_is_named_with_its_place(
    text: str, place: tuple[int, int], words: str
) -> None:
    (item,) = load_yaml(text, "r.yaml").diagnostics
    assert item.severity == "error"
    assert (item.file, item.line, item.col) == ("r.yaml", *place)
    assert words in item.message


def test_nesting_without_end_is_an_error_not_a_crash() -> None:
    (item,) = load_yaml("[" * 5000 + "]" * 5000, "r.yaml").diagnostics
    assert "nested deeper" in item.message


def test_problems_are_collected_not_stopped_at() -> None:
    document = load_yaml("a: *x\nb: .inf\nb: 1\nc: ok\n", "r.yaml")
    assert [item.line for item in document.diagnostics] == [1, 2, 3]
    assert document.data["c"] == "ok"
    assert {("a",), ("b",)} <= document.spoiled


def test_every_key_and_value_has_its_place() -> None:
    text = "verifier:\n  path: ./m  # here\nlist: [1, twenty]\nblock:\n  - x: 1\n"
    positions = load_yaml(text, "r.yaml").positions
    assert positions.key(("verifier", "path"))[:4] == ("r.yaml", 2, 3, 4)
    assert positions.value(("verifier", "path")) == Mark("r.yaml", 2, 9, 3, "  path: ./m  # here")
    assert positions.value(("list", 1))[:4] == ("r.yaml", 3, 11, 6)
    assert positions.key(("block", 0, "x"))[:4] == ("r.yaml", 5, 5, 1)


def test_a_place_nobody_wrote_is_the_nearest_block_around_it() -> None:
    positions = load_yaml("a:\n  b: 1\n", "r.yaml").positions
    assert positions.value(("a", "c"))[:3] == ("r.yaml", 1, 1)
    assert positions.value(("x",))[:3] == ("r.yaml", 1, 1)


def test_lines_are_counted_as_the_parser_counts_them() -> None:
    text = "a: 1\r\nb: 2\rc: 3\u2028d: *x\n"
    (item,) = load_yaml(text, "r.yaml").diagnostics
    assert (item.line, item.source) == (4, "d: *x")
