"""The recipes that come with the package, to be run as they are or copied as a start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from speculators.errors import RecipeError
from speculators.recipe.inheritance import load_family, read_source
from speculators.recipe.schema import published_path
from speculators.recipe.suggestions import did_you_mean, nearest
from speculators.recipe.view import named

RECIPES = "recipes"


class Shipped(NamedTuple):
    """A recipe of the package and its own words of what it is for."""

    name: str
    path: Path
    description: str


def shipped_paths() -> dict[str, Path]:
    """The file of each shipped recipe by its name, in order."""
    files = sorted(published_path(RECIPES).glob("*.yaml"))
    return {file.stem: file for file in files if not file.stem.endswith(".lock")}


def shipped() -> list[Shipped]:
    """All shipped recipes."""
    return [
        Shipped(name, path, str(named(load_family(read_source(path)).document.data, "description") or ""))
        for name, path in shipped_paths().items()
    ]


def instead_of(path: Path) -> str:
    """What to name where ``path`` cannot be read as a recipe."""
    if path.is_dir():
        return "name the recipe's file in it"
    if path.exists():
        return "a recipe is a text file in UTF-8"
    if path.stem in shipped_paths():
        return f"a recipe of that name comes along: speculators show {path.stem} > {path.stem}.yaml"
    beside = {file.stem: file.name for file in path.parent.glob("*.y*ml")}
    if match := nearest(path.stem, beside):
        return f"did you mean '{beside[match]}'?"
    return "'speculators show --list' names the recipes that come along"


def find_recipe(wanted: str) -> Path:
    """The file ``wanted``, or the shipped recipe of that name.

    Raises:
        RecipeError: there is neither.
    """
    if os.path.exists(wanted):
        return Path(wanted)
    known = shipped_paths()
    name = wanted.removesuffix(".yaml")
    if name not in known:
        hint = did_you_mean(name, known) or "'speculators show --list' names those that come along"
        raise RecipeError(
            f"'{wanted}' is no file here and no recipe that comes along", hint=hint, rule="unknown-recipe"
        )
    return known[name]
