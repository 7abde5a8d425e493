from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from speculators.recipe.corrections import correction
from speculators.recipe.schema import load_schema, schema_at, schema_paths
from speculators.recipe.yaml_loader import load_yaml

#: What "write VALUE" may be followed by.
REASONS = (", without quotes", ": digits are not grouped")
TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}
LEAVES = [
    schema
    for path in schema_paths(load_schema())
    if (schema := schema_at(load_schema(), path)) and schema.get("type") not in (None, "object")
]
SAID = st.text(max_size=8) | st.sampled_from(["1_000", "80%", "yes", "1, 4", "[1,4]", "ngram", "3", "4k"])
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | SAID


def said(value: Any, schema: dict[str, Any]) -> str:
    return correction(value, schema, Draft7Validator(schema).is_valid)


@pytest.mark.parametrize(
    ("value", "schema", "hint"),
    [
        ("2, 15", {"type": "array", "items": {"type": "integer"}}, "write [2, 15]"),
        (8, {"type": "array", "items": {"type": "integer"}}, "write [8]"),
        ("my, file", {"type": "array", "items": {"type": "string"}}, "write [my, file]"),
        ("1,000", {"type": "integer"}, "write 1000: digits are not grouped"),
        ("80%", {"type": "number", "maximum": 1}, "write 0.8"),
        ("80%", {"type": "integer"}, ""),
        ("no", {"type": "boolean"}, "write false"),
        (7, {"type": "string"}, "put it in quotes"),
        (None, {"type": "string", "examples": ["16G"]}, "for example: 16G"),
        (None, {"type": ["integer", "string"], "default": 3}, "leave the key out to get its default"),
    ],
)
def test_what_was_meant_is_said(value: Any, schema: dict[str, Any], hint: str) -> None:
    assert said(value, schema) == hint


@pytest.mark.parametrize(
    ("block", "value", "hint"),
    [
        ("verifier", "Qwen/Qwen3-8B", "write its keys below it, indented, as in 'repository: Qwen/Qwen3-8B'"),
        ("algorithm", "eagle3", "write its keys below it, indented, as in 'kind: eagle3'"),
        ("benchmark.columns", "question", "write its keys below it, indented: prompt, topic, id, system"),
        ("verifier", [{"path": "a"}], "remove the dashes: its keys stand below it, indented, each once"),
    ],
)  # fmt: skip
def test_a_block_is_told_by_its_keys(block: str, value: Any, hint: str) -> None:
    schema = schema_at(load_schema(), tuple(block.split(".")))
    assert schema
    assert said(value, schema) == hint


@given(st.sampled_from(LEAVES), VALUES)
def test_what_is_said_to_write_is_accepted(schema: dict[str, Any], value: Any) -> None:
    types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    if any(isinstance(value, TYPES[name]) for name in types):
        return  # not of a wrong type
    hint = said(value, schema)
    if hint.startswith("write "):
        text = hint.removeprefix("write ")
        for reason in REASONS:
            text = text.removesuffix(reason)
        document = load_yaml(text, "")
        assert not document.diagnostics
        assert Draft7Validator(schema).is_valid(document.data)
