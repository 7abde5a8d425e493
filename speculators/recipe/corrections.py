"""What to write in place of a value of the wrong type, where that can be told from the value.

People write what other tools take: a list of one without brackets, a percentage, a number in quotes, a
name where a block belongs.  Whatever they may have meant is tried on the schema, and what fits is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from speculators.recipe.yaml_scalars import resolve_plain
from speculators.recipe.yaml_writer import inline_yaml

#: Words of YAML 1.1 and of other tools for a switch; a recipe knows only true and false, or what a key lists.
YES = ("on", "yes", "true", "y")
NO = ("off", "no", "false", "n")


def correction(value: Any, schema: Mapping[str, Any], fits: Callable[[Any], bool]) -> str:
    """The way out for a ``value`` that has none of the types of ``schema``; empty where none can be told.

    ``fits``: whether another value would satisfy ``schema``.
    """
    types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    if types == ["object"]:
        return _as_block(value, schema)
    if value is None:
        return "leave the key out to get its default" if "default" in schema else example(schema)
    if "enum" in schema:
        return f"{habit(value, schema['enum'])} one of: {', '.join(schema['enum'])}".strip()
    for meant, why in _meant(value):
        if fits(meant):
            return f"write {inline_yaml(meant)}{why}"
    if isinstance(value, bool | int | float) and fits(str(value)):
        return "put it in quotes"
    return example(schema)


def habit(value: Any, choices: Iterable[str]) -> str:
    """What a switch's word of other YAML files is called among ``choices``."""
    words = YES if value is True or value in YES else NO if value is False or value in NO else ()
    return next((f"did you mean '{choice}'?" for choice in choices if choice in words), "")


def example(schema: Mapping[str, Any]) -> str:
    """The schema's own example of a value, if it has one."""
    return f"for example: {inline_yaml(schema['examples'][0])}" if "examples" in schema else ""


def _as_block(value: Any, schema: Mapping[str, Any]) -> str:
    """Where the keys of a block go, and for which of them ``value`` was made."""
    keys: Mapping[str, Any] = schema.get("properties", {})
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return "remove the dashes: its keys stand below it, indented, each once"
    for name, one in keys.items():
        pattern = isinstance(value, str) and one.get("pattern")
        if value in one.get("enum", ()) or (pattern and re.search(pattern, value)):
            return f"write its keys below it, indented, as in '{name}: {value}'"
    shown = f": {', '.join(keys)}" if keys else f", {example(schema)}" if "examples" in schema else ""
    return f"write its keys below it, indented{shown}"


def _meant(value: Any) -> Iterator[tuple[Any, str]]:
    """Values that ``value`` may stand for, each with what to add to it."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        yield int(value), ""
    if isinstance(value, str):
        yield from _said(value.strip())
    elif not isinstance(value, list | dict):
        yield [value], ""


def _said(text: str) -> Iterator[tuple[Any, str]]:
    yield _plain(text), ", without quotes"
    digits = text.replace("_", "").replace(",", "")
    if digits != text and digits.isdecimal():
        yield _plain(digits), ": digits are not grouped"
    if text.endswith("%") and type(share := _plain(text[:-1])) in (int, float):
        yield share / 100, ""
    if text.lower() in YES + NO:
        yield text.lower() in YES, ""
    parts = [_plain(part.strip()) for part in text.removeprefix("[").removesuffix("]").split(",")]
    yield parts, ""


def _plain(text: str) -> Any:
    try:
        return resolve_plain(text)
    except ValueError:
        return text
