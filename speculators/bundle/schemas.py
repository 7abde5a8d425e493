"""The published JSON Schemas, and the first thing in which a document differs from its own."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any


@cache
def published_schema(name: str) -> dict[str, Any] | None:
    """The schema ``schemas/<name>.v1.json``, as package data or of the checkout; None when there is none."""
    file = f"schemas/{name}.v1.json"
    for root in (Path(str(resources.files("speculators"))), Path(__file__).parents[2]):
        if (root / file).is_file():
            schema: dict[str, Any] = json.loads((root / file).read_text(encoding="utf-8"))
            return schema
    return None


def schema_fault(document: Any, name: str) -> str:
    """Where and how ``document`` differs from the schema ``name``; empty when it does not."""
    import jsonschema

    schema = published_schema(name)
    assert schema is not None, name
    errors = jsonschema.Draft7Validator(schema).iter_errors(document)
    first = min(errors, key=lambda error: error.json_path, default=None)
    return "" if first is None else f"{first.json_path}: {first.message[:200]}"
