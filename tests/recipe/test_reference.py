from __future__ import annotations

from pathlib import Path

from speculators.cli import app
from speculators.recipe.reference import reference, values
from speculators.recipe.schema import load_schema, schema_paths

PAGE = Path(__file__).parents[2] / "docs" / "recipe.md"


def test_the_published_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(load_schema()), (
        "renew it: speculators schema --format md > docs/recipe.md"
    )


def test_every_key_has_a_row() -> None:
    page = reference(load_schema())
    for path in schema_paths(load_schema()):
        assert f"`{'.'.join(map(str, path))}`" in page, path


def test_values_are_spelled_as_a_reader_needs_them() -> None:
    assert (
        values({"type": ["integer", "null"], "minimum": 1, "maximum": 9}) == "whole number or null ≥ 1, ≤ 9"
    )
    assert values({"type": "array", "items": {"enum": ["a", "b"]}}) == "list of `a`, `b`"
    assert values({"type": "boolean"}) == "true, false"
    assert values({"const": "v1"}) == "`v1`"


def test_a_key_of_some_kinds_says_of_which() -> None:
    schema = {
        "properties": {
            "kind": {"enum": ["a", "b"], "description": "K."},
            "x": {"type": "number", "description": "X."},
        },
        "allOf": [
            {"if": {"properties": {"kind": {"enum": ["b"]}}}, "then": {"propertyNames": {"enum": ["kind"]}}},
        ],
    }
    page = reference({"properties": {"block": {**schema, "description": "B."}}})
    assert "| `block.x` | number |  | X. Only for kind `a`. |" in page
    assert "| `block.kind` | `a`, `b` |  | K. |" in page


def test_the_verb_prints_it(capsys) -> None:
    assert app.main(["schema", "--format", "md"]) == 0
    assert capsys.readouterr().out == reference(load_schema())
    assert app.main(["schema", "--format", "html"]) == 2
