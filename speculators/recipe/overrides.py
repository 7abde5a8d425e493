"""``--set a.b=v``: change a recipe from the command line.

The value is read by the same YAML loader and the merged recipe is validated like a file, so an
override can do nothing that a file cannot; its errors point at the argument.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

from speculators.recipe.diagnostics import Diagnostic, diagnostic
from speculators.recipe.engine_rules import ORDINARY_ARGS, OWNED_ARGS
from speculators.recipe.positions import Mark, Path, Positions, dotted, split_path
from speculators.recipe.schema import load_schema, schema_at, schema_paths
from speculators.recipe.suggestions import nearest
from speculators.recipe.yaml_loader import load_yaml


class Override(NamedTuple):
    """One parsed argument: the path to set, its value, and where both stand (``()`` is the path)."""

    path: Path
    value: Any
    positions: Positions


class Merged(NamedTuple):
    """A recipe's data and positions after all overrides."""

    data: Any
    positions: Positions
    diagnostics: tuple[Diagnostic, ...]


def apply_overrides(data: Any, positions: Positions, arguments: tuple[str, ...]) -> Merged:
    """``data`` with every ``PATH=VALUE`` of ``arguments`` set, in order; later ones win.

    Lists and blocks are replaced whole.  Arguments that cannot be used become diagnostics.
    """
    data = copy.deepcopy(data)
    problems: list[Diagnostic] = []
    for number, argument in enumerate(arguments, start=1):
        parsed = parse_override(argument, number)
        if isinstance(parsed, Override):
            if _set(data, parsed.path, parsed.value):
                positions = positions.grafted(parsed.path, parsed.positions)
        else:
            problems.extend(parsed)
    return Merged(data, positions, tuple(problems))


def parse_override(argument: str, number: int) -> Override | tuple[Diagnostic, ...]:
    """The ``number``-th (from 1) override, or what is wrong with it."""
    file = f"--set[{number}]"
    name, equals, text = argument.partition("=")
    whole = Mark(file, 1, 1, max(1, len(name)), argument)
    if not equals or not name:
        message = f"'{argument}' sets nothing"
        return (
            diagnostic("error", "bad-override", message, whole, "write PATH=VALUE, as in training.epochs=3"),
        )
    path = split_path(name)
    if problem := _path_problem(path, whole):
        return (problem,)
    document = load_yaml(text, file)
    offset = len(name) + 1
    if document.diagnostics:
        return tuple(_shifted(item, offset, argument) for item in document.diagnostics)
    values = {
        below: _argument_mark(mark, offset, argument) for below, mark in document.positions.values.items()
    }
    keys = {below: _argument_mark(mark, offset, argument) for below, mark in document.positions.keys.items()}
    value = Mark(file, 1, offset + 1, max(1, len(text)), argument)
    return Override(path, document.data, Positions(file, keys | {(): whole}, values | {(): value}))


def _argument_mark(mark: Mark, offset: int, argument: str) -> Mark:
    return mark._replace(line=1, col=mark.col + offset, source=argument)


def _shifted(item: Diagnostic, offset: int, argument: str) -> Diagnostic:
    return item._replace(line=1, col=item.col + offset, source=argument, notes=())


def _path_problem(path: Path, mark: Mark) -> Diagnostic | None:
    schema = load_schema()
    if path == ("extends",):
        hint = "write it into the recipe: what a value is set over must be known before"
        return diagnostic("error", "bad-override", "'extends' cannot be set here", mark, hint)
    for end in range(1, len(path) + 1):
        parent = schema_at(schema, path[: end - 1])
        if parent is not None and parent.get("type") == "array":
            name = dotted(path[: end - 1])
            hint = f"write the whole list: {name}=[...]"
            return diagnostic("error", "bad-override", f"'{name}' is a list, set as a whole", mark, hint)
        if schema_at(schema, path[:end]) is None or not path[end - 1]:
            message = f"unknown key '{dotted(path)}'"
            return diagnostic("error", "unknown-key", message, mark, _suggestion(path, end))
    return None


def _suggestion(path: Path, end: int) -> str:
    """The likeliest known path: right key in another block, a near key here, a near path anywhere."""
    known = list(schema_paths(load_schema()))
    tail = path[end - 1 :]
    homes = [dotted(candidate) for candidate in known if candidate[-len(tail) :] == tail]
    if len(homes) == 1:
        return f"did you mean '{homes[0]}'?"
    if path[-1] in ORDINARY_ARGS - OWNED_ARGS.keys():
        return f"did you mean 'engine.args.{path[-1]}'?"
    siblings = {str(candidate[-1]): candidate for candidate in known if candidate[:-1] == path[: end - 1]}
    if match := nearest(str(path[end - 1]), siblings):
        return f"did you mean '{dotted((*siblings[match], *path[end:]))}'?"
    if homes:
        return f"did you mean one of: {', '.join(homes)}?"
    anywhere = nearest(dotted(path), [dotted(candidate) for candidate in known])
    return f"did you mean '{anywhere}'?" if anywhere else "'speculators schema' lists all keys"


def _set(data: Any, path: Path, value: Any) -> bool:
    """Set ``path`` in place; False when something on the way is not a block (its own error)."""
    *parents, last = path
    for part in parents:
        if not isinstance(data, dict):
            return False
        data = data.setdefault(part, {})
    if not isinstance(data, dict):
        return False
    data[last] = value
    return True
