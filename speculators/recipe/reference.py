"""The recipe's schema as a page for people: every key with its values, default and meaning.

Generated, so that the page cannot say something else than what ``check`` and every stage read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from speculators.recipe.schema import case_values, fitting_names

Schema = Mapping[str, Any]

HEAD = """\
# Recipe reference

Generated from [the schema](../schemas/recipe.v1.json) by `speculators schema --format md`: do not edit it.
Unknown keys are errors; a key that is left out has its default. A run keeps its recipe, with all of them
filled in, as `resolved.yaml`.
"""
COLUMNS = "| key | values | default | meaning |\n|---|---|---|---|\n"
TYPES = {
    "string": "text",
    "integer": "whole number",
    "boolean": "true, false",
    "object": "block",
    "null": "null",
}
#: How a bound of the schema is written; {} is its value.
BOUNDS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}


def reference(schema: Schema) -> str:
    """The Markdown page of a recipe schema: the recipe itself, then a section a block."""
    sections = [HEAD + "\n" + _table(schema, "", deep=False)]
    for name, child in schema["properties"].items():
        if "properties" in child:
            needed = " Required." if name in schema.get("required", ()) else ""
            text = f"## {name}\n\n{child['description']}{needed}\n\n"
            sections.append(text + _table(child, f"{name}.", deep=True))
    return "\n".join(sections)


def _table(schema: Schema, prefix: str, *, deep: bool) -> str:
    return COLUMNS + "".join(f"| {' | '.join(map(_cell, row))} |\n" for row in _rows(schema, prefix, deep))


def _rows(schema: Schema, prefix: str, deep: bool) -> Iterator[tuple[str, str, str, str]]:
    """A row a key, blocks before what is in them; without ``deep`` a block refers to its section."""
    for name, child in schema["properties"].items():
        path = prefix + name
        block = "properties" in child
        meaning = child["description"] + _only(schema, name)
        if block and not deep:
            yield f"[`{name}`](#{name})", "block", _default(schema, name), meaning
            continue
        yield (
            f"`{path}`",
            "block" if block else values(child),
            _default(schema, name),
            meaning + _example(child),
        )
        if block:
            yield from _rows(child, f"{path}.", deep)


def values(schema: Schema) -> str:
    """What may stand there: choices, or the type with its bounds."""
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    kinds = schema.get("type", "object")
    words = [TYPES.get(kind, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)]
    if "array" in words:
        words[words.index("array")] = f"list of {values(schema['items'])}"
    bounds = [text.format(schema[key]) for key, text in BOUNDS.items() if key in schema]
    return " ".join(filter(None, (" or ".join(words), ", ".join(bounds))))


def _default(schema: Schema, name: str) -> str:
    """The default as a recipe writes it; whether it must be given where there is none."""
    child = schema["properties"][name]
    if "default" in child and "properties" not in child:
        return f"`{json.dumps(child['default'], ensure_ascii=False)}`"
    always = name in schema.get("required", ())
    return "required" if always else ""


def _only(schema: Schema, name: str) -> str:
    """For which cases of its block a key is there, where it is not for all of them."""
    deciding = {key for case in schema.get("allOf", ()) for key in case_values(case)}
    notes = []
    for key in sorted(deciding - {name}):
        choices = schema["properties"][key]["enum"]
        fitting = [one for one in choices if name in fitting_names(dict(schema), {key: one})]
        if len(fitting) < len(choices):
            notes.append(f" Only for {key} {', '.join(f'`{one}`' for one in fitting)}.")
    return "".join(notes)


def _example(schema: Schema) -> str:
    """The schema's first example, where it tells more than the choices and the default do."""
    examples = [one for one in schema.get("examples", ()) if one != schema.get("default")]
    if not examples or "enum" in schema or "const" in schema:
        return ""
    return f" For example `{json.dumps(examples[0], ensure_ascii=False)}`."


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
