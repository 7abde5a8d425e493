"""A resolved recipe with the place of each value beside it.

With a parent, overrides and defaults, the file alone no longer says what runs; this does, and is still a
recipe that can be read back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from speculators.recipe.positions import Path, dotted
from speculators.recipe.recipe import Recipe
from speculators.recipe.warm_start import find_start
from speculators.recipe.yaml_writer import dump_yaml

DEFAULT = "default"
#: The column of the places; a longer value pushes its own to the right.
COLUMN = 52


def origins(recipe: Recipe) -> dict[str, str]:
    """``file:line``, ``--set[n]``, the draft's config or ``default`` of every value, by dotted path."""
    place = place_of(recipe)
    return {dotted(path): place(path) for path, _ in leaves(recipe.data)}


def place_of(recipe: Recipe) -> Callable[[Path], str]:
    """A function from a path in the recipe's data to where its value comes from."""
    start = find_start(recipe.data, recipe.path.parent, os.environ)
    brought = {("algorithm", name) for name in start.values} if start else set()

    def place(path: Path) -> str:
        written = recipe.positions.place(path)
        return written or (start.source if start and path in brought else DEFAULT)

    return place


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value that is no block with something in it, and its path."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    else:
        yield path, value


def annotated(recipe: Recipe) -> str:
    """The resolved recipe as YAML, each value followed by ``# place``."""
    return "\n".join(_lines(recipe.data, (), place_of(recipe))) + "\n"


def _lines(block: dict[str, Any], path: Path, place: Callable[[Path], str]) -> Iterator[str]:
    indent = "  " * len(path)
    for key, value in block.items():
        here = (*path, key)
        first, *more = dump_yaml({key: value}).splitlines()
        if isinstance(value, dict) and value:
            yield indent + first
            yield from _lines(value, here, place)
        else:
            yield f"{indent + first:<{COLUMN - 1}} # {place(here)}" if not more else indent + first
            yield from (indent + line for line in more)
