"""The recipe schema keeps its own promises: documented, closed, without unions, pure defaults."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from speculators.benchmark.rounds import FREE_ARMS
from speculators.recipe.schema import apply_defaults, load_schema, schema_at, schema_paths
from speculators.training.architectures import ARCHITECTURES

OPEN_BLOCKS = {"verifier.chat_template_kwargs", "engine.args", "engine.env"}
SCHEMA = load_schema()
MINIMAL: dict[str, Any] = {
    "schema": "speculators/recipe/v1",
    "name": "x",
    "verifier": {"path": "m"},
    "algorithm": {"kind": "eagle3", "aux_layers": [1], "draft_vocabulary": 8},
    "datagen": {"prompts": {}},
    "training": {},
    "benchmark": {"prompts": "b.jsonl"},
}
PROPERTIES = [".".join(map(str, path)) for path in schema_paths(SCHEMA)]


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for child in value.values():
            yield from nodes(child)
    elif isinstance(value, list):
        for child in value:
            yield from nodes(child)


def test_it_is_valid_draft_7() -> None:
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"
    Draft7Validator.check_schema(SCHEMA)


def test_it_has_no_unions_but_cases_of_one_value() -> None:
    assert not [key for node in nodes(SCHEMA) for key in ("oneOf", "anyOf", "not") if key in node]
    for block in (node for node in nodes(SCHEMA) if "allOf" in node):
        for case in block["allOf"]:
            assert set(case) == {"if", "then"}
            (selector,) = case["if"]["required"]
            assert set(case["then"]["propertyNames"]["enum"]) <= set(block["properties"])
            assert set(case["then"].get("required", ())) <= set(case["then"]["propertyNames"]["enum"])
            assert set(case["if"]["properties"][selector]["enum"]) <= set(
                block["properties"][selector]["enum"]
            )


def test_every_kind_has_its_case_and_its_architecture_or_needs_none() -> None:
    block = SCHEMA["properties"]["algorithm"]
    kinds = [kind for case in block["allOf"] for kind in case["if"]["properties"]["kind"]["enum"]]
    assert sorted(kinds) == sorted(block["properties"]["kind"]["enum"])
    assert sorted(kinds) == sorted([*ARCHITECTURES, *FREE_ARMS])


def test_defaults_are_those_of_the_kind() -> None:
    block = SCHEMA["properties"]["algorithm"]
    assert apply_defaults({"kind": "eagle"}, block) == {"kind": "eagle", "speculative_tokens": 3, "layers": 1}
    assert "anchors" in apply_defaults({"kind": "dflash"}, block)
    assert "anchors" not in apply_defaults({"kind": "eagle3"}, block)


@pytest.mark.parametrize("name", PROPERTIES)
def test_every_property_is_documented(name: str) -> None:
    node = schema_at(SCHEMA, tuple(name.split(".")))
    assert node is not None
    assert node["title"]
    assert node["description"].endswith(".")
    assert "default" in node or "examples" in node or "properties" in node
    for example in node.get("examples", []):
        Draft7Validator(node).validate(example)
    if "properties" not in node and "default" in node:
        Draft7Validator(node).validate(node["default"])


@pytest.mark.parametrize("name", ["", *PROPERTIES])
def test_blocks_are_closed_but_for_what_passes_to_vllm(name: str) -> None:
    node = schema_at(SCHEMA, tuple(name.split(".")) if name else ())
    assert node is not None
    if node["type"] == "object":
        assert (node["additionalProperties"] is False) == (name not in OPEN_BLOCKS)


def test_defaults_are_valid_and_complete() -> None:
    filled = apply_defaults(MINIMAL, SCHEMA)
    Draft7Validator(SCHEMA).validate(filled)
    assert filled["datagen"]["prompts"]["magpie"]["count"] == 0
    assert filled["engine"] == {"args": {}, "env": {}, "startup_timeout": 300, "stall_timeout": 300}
    assert filled["verifier"]["thinking"] == "off"


def test_defaults_invent_no_block() -> None:
    filled = apply_defaults({"draft": "./d"}, SCHEMA)
    assert not {"algorithm", "datagen", "training", "verifier", "benchmark"} & set(filled)


def test_defaults_are_copies() -> None:
    first = apply_defaults(MINIMAL, SCHEMA)
    first["engine"]["args"]["dtype"] = "float32"
    assert apply_defaults(MINIMAL, SCHEMA)["engine"]["args"] == {}


VALUES = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
KEYS = st.sampled_from(sorted({name.rpartition(".")[2] for name in PROPERTIES})) | st.text(max_size=3)
RECIPES = st.recursive(VALUES, lambda inner: st.dictionaries(KEYS, inner, max_size=4), max_leaves=12)


@given(RECIPES)
def test_defaults_are_idempotent_and_keep_what_is_written(data: Any) -> None:
    before = copy.deepcopy(data)
    once = apply_defaults(data, SCHEMA)
    assert data == before
    assert apply_defaults(once, SCHEMA) == once
    if isinstance(data, dict):
        assert set(data) <= set(once)
        assert all(once[key] == value for key, value in data.items() if not isinstance(value, dict))


def test_paths_into_open_blocks_are_known_and_others_are_not() -> None:
    assert schema_at(SCHEMA, ("engine", "args", "anything", "below")) == {}
    assert schema_at(SCHEMA, ("training", "nothing")) is None
    assert schema_at(SCHEMA, ("training", "epochs", "below")) is None
