"""The recipe's JSON Schema: its text, its defaults, its paths.

The schema file is the only place that knows names, types, bounds and defaults; editors, ``check``
and every stage read the same one.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path as FilePath
from typing import Any

from speculators.recipe.positions import Path

SCHEMA_ID = "speculators/recipe/v1"
SCHEMA_FILE = "schemas/recipe.v1.json"


@cache
def schema_text() -> str:
    """The schema as published: package data when installed, else the checkout's file."""
    return published(SCHEMA_FILE)


def published(file: str) -> str:
    """The text of a file in one of the checkout's top-level folders, which a wheel takes along."""
    return published_path(file).read_text(encoding="utf-8")


def published_path(name: str) -> FilePath:
    """Where such a file or folder is here."""
    packaged = FilePath(str(resources.files("speculators"))) / name
    return packaged if packaged.exists() else FilePath(__file__).parents[2] / name


@cache
def load_schema() -> dict[str, Any]:
    """The parsed schema.  Shared: do not change it."""
    schema: dict[str, Any] = json.loads(schema_text())
    return schema


def apply_defaults(data: Any, schema: dict[str, Any]) -> Any:
    """``data`` with every missing default filled in, keys in the schema's order.

    Pure and idempotent.  Names that do not fit the block's kind get none.  A block without a default of
    its own (``algorithm``, say) is not invented.
    """
    properties = schema.get("properties")
    if not isinstance(data, dict) or properties is None:
        return copy.deepcopy(data)
    filled: dict[str, Any] = {}
    fitting = fitting_names(schema, data)
    for name, child in properties.items():
        if name in data:
            filled[name] = apply_defaults(data[name], child)
        elif "default" in child and name in fitting:
            filled[name] = apply_defaults(child["default"], child)
    unknown = {name: copy.deepcopy(value) for name, value in data.items() if name not in properties}
    return filled | unknown


def fitting_names(schema: dict[str, Any], data: dict[str, Any]) -> set[str]:
    """The properties that fit the values of ``data``: those of every case of ``schema`` that it is."""
    names = set(schema["properties"])
    for case in schema.get("allOf", ()):
        if all(data.get(name) in choices for name, choices in case_values(case).items()):
            names &= set(case["then"]["propertyNames"]["enum"])
    return names


def case_values(case: dict[str, Any]) -> dict[str, list[Any]]:
    """What makes a block the case of an ``if``: its names and their possible values."""
    return {name: value["enum"] for name, value in case["if"]["properties"].items()}


def schema_paths(schema: dict[str, Any], prefix: Path = ()) -> Iterator[Path]:
    """Every path that the schema names, blocks before their contents."""
    for name, child in schema.get("properties", {}).items():
        yield (*prefix, name)
        yield from schema_paths(child, (*prefix, name))


def schema_at(schema: dict[str, Any], path: Path) -> dict[str, Any] | None:
    """The schema of the value at ``path``; ``{}`` below an open block, None for an unknown key."""
    for part in path:
        properties = schema.get("properties", {})
        extra = schema.get("additionalProperties", True)
        if isinstance(part, int):
            schema = schema.get("items", {})
        elif part in properties:
            schema = properties[part]
        elif "properties" in schema or schema.get("type") not in (None, "object") or extra is False:
            return None
        else:
            schema = extra if isinstance(extra, dict) else {}
    return schema
