"""A recipe: read once, checked whole, then only its values are used.

``load_recipe`` never raises for what a user wrote; ``require_recipe`` is the one place that turns
its errors into an exception.
"""

from __future__ import annotations

import copy
import importlib.metadata
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from speculators.errors import RecipeError
from speculators.recipe.diagnostics import Diagnostic, diagnostic, has_errors, ordered, render_all
from speculators.recipe.facts import find_facts
from speculators.recipe.hub_cache import HubFile, hub_file, snapshots
from speculators.recipe.inheritance import Source, UnusableError, load_family, read_source
from speculators.recipe.overrides import apply_overrides
from speculators.recipe.positions import Mark, Positions
from speculators.recipe.positions import Path as KeyPath
from speculators.recipe.prompt_source import BENCHMARK_FILES, PackageFile, PromptSource, sources_of
from speculators.recipe.reference_run import is_reference_run
from speculators.recipe.rules import run_rules
from speculators.recipe.schema import apply_defaults, load_schema
from speculators.recipe.shipped import instead_of
from speculators.recipe.validation import validate
from speculators.recipe.view import BROUGHT_MODELS, FILES, View, named
from speculators.recipe.warm_start import inherit
from speculators.recipe.yaml_writer import dump_yaml


@dataclass(frozen=True)
class Recipe:
    """A valid recipe.  ``data`` has every default filled in, and what it extends merged in.

    ``sources`` are the files as given: the recipe's own, then those of its parents, the nearest first.
    """

    path: Path
    name: str
    sources: tuple[Source, ...]
    overrides: tuple[str, ...]
    data: dict[str, Any]
    positions: Positions

    def files(self) -> dict[str, list[Path]]:
        """The files and folders that the recipe names, absolute, by their dotted recipe path."""
        written = {name: named(self.data, name) for name in FILES if name != BENCHMARK_FILES}
        folder = self.path.absolute().parent
        found = {
            name: [path for file in _listed(files) if (path := _located(file, folder))]
            for name, files in written.items()
        }
        asked = [one.located(folder, os.environ) for one in self.benchmark_sources()]
        found[BENCHMARK_FILES] = [path for path in asked if path]
        for name, source in self.hub_models().items():
            found[name] = list(snapshots(*source, os.environ))[:1]
        return {name: paths for name, paths in found.items() if paths}

    def verifier_source(self) -> dict[str, str]:
        """What the verifier's name stands for now: the commit in the local cache, the package's version.

        Empty where the name is a folder (its files are digested), or nothing is found.
        """
        verifier = self.data["verifier"]
        if repository := verifier.get("repository"):
            cached = snapshots(repository, verifier.get("revision") or "main", os.environ)
            found = next(cached, None)
            return {"commit": found.name} if found else {}
        if "package" not in verifier:
            return {}
        try:
            return {"version": importlib.metadata.version(verifier["package"])}
        except importlib.metadata.PackageNotFoundError:
            return {}

    def hub_models(self) -> dict[str, tuple[str, str]]:
        """Repository and revision of each ``BROUGHT_MODELS`` that comes from the hub, by its recipe path."""
        folder, brought = (
            self.path.absolute().parent,
            {name: named(self.data, name) for name in BROUGHT_MODELS},
        )
        return {
            name: (model.rpartition("@")[0], model.rpartition("@")[2])
            for name, model in brought.items()
            if model and not (folder / model).exists()
        }

    def benchmark_sources(self) -> list[PromptSource]:
        """What ``benchmark.prompts`` names, in order."""
        return sources_of(named(self.data, BENCHMARK_FILES))

    def data_elsewhere(self) -> list[HubFile | PackageFile]:
        """The files of prompts that are none of the recipe's own: of the hub's datasets, of packages."""
        names = _listed(named(self.data, "datagen.prompts.files"))
        found = [*map(hub_file, names), *(one.elsewhere for one in self.benchmark_sources())]
        return list(dict.fromkeys(file for file in found if file))

    def resolved_yaml(self) -> str:
        """The recipe with all defaults and overrides written out; loads to the same ``data``."""
        return dump_yaml(self.data)


class Loaded(NamedTuple):
    """``recipe`` is None when a diagnostic is an error."""

    recipe: Recipe | None
    diagnostics: tuple[Diagnostic, ...]


class InvalidRecipeError(RecipeError):
    """A recipe with errors; the message is all of its diagnostics as text."""

    rule = "invalid-recipe"

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        super().__init__(render_all(diagnostics))
        self.diagnostics = tuple(diagnostics)


def load_recipe(path: Path, overrides: Sequence[str] = (), text: str | None = None) -> Loaded:
    """Read and check the recipe in ``path``, with ``PATH=VALUE`` overrides set before the check.

    ``text``: what the file holds at another time, instead of now.
    """
    try:
        family = load_family(read_source(path) if text is None else Source(path, text))
    except UnusableError as error:
        message = f"cannot read the recipe: {error}"
        unreadable = diagnostic("error", "unreadable", message, Mark(str(path)), instead_of(path))
        return Loaded(None, (unreadable,))
    document = family.document
    if is_reference_run(document.data):
        message = "this is a run.yaml of vllm-project/speculators, not a recipe"
        hint = f"make a recipe of it: speculators show {path} > mine.yaml"
        return Loaded(None, (diagnostic("error", "run-yaml", message, Mark(str(path)), hint),))
    merged = apply_overrides(document.data, document.positions, tuple(overrides))
    data = inherit(merged.data, path.parent, os.environ)
    checked = validate(data, merged.positions, document.spoiled)
    resolved = apply_defaults(data, load_schema())
    sound = without(resolved, checked.bad)
    found = [*document.diagnostics, *merged.diagnostics, *checked.diagnostics]
    if isinstance(sound, dict):
        facts = find_facts(sound.get("verifier", {}), path.parent, os.environ)
        found += run_rules(View(sound, merged.positions, facts, path.parent, checked.bad))
    diagnostics = ordered(found)
    if has_errors(diagnostics):
        return Loaded(None, diagnostics)
    return Loaded(
        Recipe(path, resolved["name"], family.sources, tuple(overrides), resolved, merged.positions),
        diagnostics,
    )


def require_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in ``path``.

    Raises:
        InvalidRecipeError: with all diagnostics.
    """
    recipe, diagnostics = load_recipe(path, overrides)
    if recipe is None:
        raise InvalidRecipeError(diagnostics)
    return recipe


def without(data: Any, paths: Iterable[KeyPath]) -> Any:
    """A copy of ``data`` without the values at ``paths``; a bad list item takes its list along."""
    result = copy.deepcopy(data)
    for path in paths:
        if not path:
            return None
        _remove(result, path)
    return result


def _remove(block: Any, path: KeyPath) -> None:
    name, *rest = path
    if not isinstance(block, dict) or name not in block:
        return
    if rest and isinstance(block[name], dict):
        _remove(block[name], tuple(rest))
    else:
        del block[name]


def _located(name: str, folder: Path) -> Path | None:
    """Where a named file lies; None for one of the hub that was not fetched."""
    if file := hub_file(name):
        return file.cached(os.environ)
    return Path(os.path.normpath(folder / name))


def _listed(names: Any) -> list[str]:
    """The files that a value names: one, several or none."""
    return [name for name in (names if isinstance(names, list) else [names]) if name]
