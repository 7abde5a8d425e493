"""The lock as text: whatever is pinned reads back, and what is no lock is refused at its place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from speculators.pipeline import lock
from speculators.recipe.yaml_loader import load_yaml

FILE = "x.lock.yaml"
HEX = "0123456789abcdef"
PINS: dict[tuple[str, ...], str | int] = {
    ("name",): "x",
    ("recipe",): "1" * 64,
    ("tool", "version"): "0.1.0",
    ("tool", "sha256"): "12e4" + "0" * 60,
    ("models", "verifier", "repository"): "owner/name",
    ("models", "verifier", "revision"): "c" * 40,
    ("models", "verifier", "files", "config.json"): "a" * 64,
    ("models", "verifier", "files", "tokenizer.json"): "b" * 64,
    ("models", "verifier", "tokenizer"): "b" * 64,
    ("models", "verifier", "chat_template"): "d" * 64,
    ("prompts", "benchmark", "b.jsonl", "rows"): 12,
    ("prompts", "benchmark", "b.jsonl", "sha256"): "e" * 64,
    ("packages", "torch"): "2.13.0+cpu",
    ("packages", "python"): "3.11",
    ("images", "engine", "digest"): "sha256:" + "f" * 64,
    ("images", "engine", "platform"): "linux/amd64",
    ("images", "engine", "reference"): "speculators/cpu:0.32.0",
    ("images", "engine", "packages", "torch"): "2.13.0+cpu",
}
DIGESTS = st.text(HEX, min_size=64, max_size=64) | st.integers(0, 10**20).map(lambda n: f"{n:064d}")
WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
AWKWARD = st.sampled_from(
    [
        "off",
        "1e5",
        "012",
        "1.0",
        "null",
        "<<",
        "a: b",
        "a #b",
        "- x",
        "&a",
        "a\nb",
        "12:30",
        "2026-01-01",
        "=",
        "~",
    ]
)
NAMES = WORDS | AWKWARD


@st.composite
def pins(draw: st.DrawFn) -> dict[tuple[str, ...], str | int]:
    """The pins of some recipe, with names as odd as file systems allow."""
    found: dict[tuple[str, ...], str | int] = {
        ("name",): draw(NAMES),
        ("recipe",): draw(DIGESTS),
        ("tool", "version"): draw(NAMES),
        ("models", "verifier", "package"): draw(NAMES),
    }
    for name in draw(st.sets(NAMES, max_size=4)):
        found[("models", "verifier", "files", name)] = draw(DIGESTS)
    for block in ("benchmark", *draw(st.sampled_from([(), ("train",)]))):
        for name in draw(st.sets(NAMES, min_size=1, max_size=3)):
            found[("prompts", block, name, "rows")] = draw(st.integers(0, 10**9))
            found[("prompts", block, name, "sha256")] = draw(DIGESTS)
    for name in draw(st.sets(NAMES, max_size=3)):
        found[("packages", name)] = draw(NAMES)
    return found


@settings(max_examples=50, deadline=None)
@given(pins())
def test_every_lock_reads_back_as_it_was_written(written: dict[tuple[str, ...], str | int]) -> None:
    text = lock.render(written)
    read = lock.parse(text, FILE)
    assert read.pins == written
    assert lock.render(read.pins) == text
    Draft7Validator(lock.schema()).validate(load_yaml(text, FILE).data)


@settings(max_examples=50, deadline=None)
@given(pins())
def test_other_yaml_readers_read_the_same(written: dict[tuple[str, ...], str | int]) -> None:
    text = lock.render(written)
    assert yaml.safe_load(text) == load_yaml(text, FILE).data


@settings(max_examples=50, deadline=None)
@given(pins())
def test_there_is_one_pin_a_line_and_the_order_does_not_matter(
    written: dict[tuple[str, ...], str | int],
) -> None:
    text = lock.render(written)
    read = lock.parse(text, FILE)
    assert len({read.positions.key(path).line for path in written}) == len(written)
    assert lock.render(dict(reversed(written.items()))) == text


TEXT = lock.render(PINS)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        (TEXT.replace("lock/v1", "lock/v2"), "3:9", "reads 'speculators/lock/v1', not 'speculators/lock/v2'"),
        (TEXT.replace("name: x", "name: [x"), "21:9", "not valid YAML"),
        (TEXT.replace("recipe: ", "recpe: "), ":1", "unknown key 'recpe' in the lock"),
        (TEXT.replace("recipe: ", "recpe: "), "1:1", "the lock lacks the key 'recipe'"),
        (TEXT.replace("rows: 12", "rows: many"), 'rows is "many", but must be: how many rows', ""),
        (TEXT.replace("c" * 40, "main"), 'revision is "main", but must be: the commit', ""),
        (TEXT + "name: y\n", "key 'name' is set twice", ""),
        (f"<<<<<<< HEAD\n{TEXT}", "1:1", "a merge is not finished"),
        ("", "the lock is null, but must be: a block", ""),
        ("[]", "the lock is [], but must be: a block", ""),
    ],
)
def test_what_is_no_lock_is_refused_with_its_place(text: str, place: str, words: str) -> None:
    with pytest.raises(lock.InvalidLockError) as caught:
        lock.parse(text, FILE)
    message = str(caught.value)
    assert message.startswith(f"{FILE} cannot be read as a lock\n{FILE}:")
    assert place in message
    assert words in message
    assert re.search(r"x\.lock\.yaml:\d+:\d+: error: ", message)
    assert "speculators lock RECIPE" in caught.value.hint


def nodes(value: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema in the schema, with the name of what it describes."""
    yield name, value
    for key in ("properties", "definitions"):
        for child, schema in value.get(key, {}).items():
            yield from nodes(schema, f"{name}.{child}")
    if isinstance(value.get("additionalProperties"), dict):
        yield from nodes(value["additionalProperties"], f"{name}.*")


def test_the_schema_is_documented_and_closed() -> None:
    schema = lock.schema()
    Draft7Validator.check_schema(schema)
    for name, node in nodes(schema):
        if "$ref" not in node:
            assert node["title"], name
            assert node["description"].endswith("."), name
        if node.get("type") == "object":
            extra = node["additionalProperties"]
            assert extra is False or "properties" not in node, name
