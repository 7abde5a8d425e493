"""``speculators check``: is this recipe right?  Half a second, no GPU, no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speculators.cli.options import Overrides, RecipePaths

if TYPE_CHECKING:
    from speculators.recipe.recipe import Loaded

REPORT_SCHEMA = "speculators/check/v1"


def check(
    recipes: RecipePaths,
    overrides: Overrides = None,
    engine: Annotated[
        bool, typer.Option("--engine", help="Let the installed vLLM check engine.args too (10 to 20 s).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    """Check recipes before anything runs.

    Keys, types, values, how they fit together, and the first rows of prompt files:
    every problem is shown at once, with its place. Exit code 2 when there is an
    error. Of a lock only the form is checked here: 'speculators lock --check'
    compares it.

    \b
    Examples:
      speculators check recipes/*.yaml
      speculators check my.yaml --set algorithm.aux_layers=[2,16,29]
      speculators check my.yaml --engine --json
    """
    from speculators.recipe.diagnostics import has_errors

    results = {path: _load(path, overrides or [], engine) for path in recipes}
    show_loaded(results, as_json)
    return 2 if any(has_errors(loaded.diagnostics) for loaded in results.values()) else 0


def _load(path: Path, overrides: list[str], engine: bool) -> Loaded:
    from speculators.pipeline.locking import ENDING, lock_diagnostics
    from speculators.recipe.diagnostics import ordered
    from speculators.recipe.engine_probe import engine_diagnostics, not_checked
    from speculators.recipe.recipe import Loaded, load_recipe

    if path.name.endswith(ENDING):  # recipes/*.yaml names locks too
        return Loaded(None, lock_diagnostics(path))
    loaded = load_recipe(path, overrides)
    args = loaded.recipe.data["engine"]["args"] if loaded.recipe else {}
    if not args or not loaded.recipe:
        return loaded
    positions = loaded.recipe.positions
    found = (
        engine_diagnostics(args, positions) if engine else [not_checked(positions, "only vLLM knows them")]
    )
    return loaded._replace(diagnostics=ordered((*loaded.diagnostics, *found)))


def show_loaded(results: dict[Path, Loaded], as_json: bool) -> None:
    """Print what the check of each recipe found; on GitHub also beside the lines."""
    from speculators.cli.github import annotate

    for loaded in results.values():
        annotate(loaded.diagnostics)
    if as_json:
        typer.echo(json.dumps(_document(results), indent=2, ensure_ascii=False))
        return
    for path, loaded in results.items():
        _show(path, loaded)


def _show(path: Path, loaded: Loaded) -> None:
    from speculators.recipe.diagnostics import has_errors, render_all, summary

    if loaded.diagnostics:
        typer.echo(render_all(loaded.diagnostics))
    verdict = "not ok" if has_errors(loaded.diagnostics) else "ok"
    counts = summary(loaded.diagnostics)
    typer.echo(f"{path}: {verdict}" + (f" ({counts})" if counts else ""))


def _document(results: dict[Path, Loaded]) -> dict[str, Any]:
    from speculators.recipe.diagnostics import as_json, has_errors

    recipes = [
        {
            "file": str(path),
            "ok": not has_errors(loaded.diagnostics),
            "diagnostics": [as_json(item) for item in loaded.diagnostics],
        }
        for path, loaded in results.items()
    ]
    return {"schema": REPORT_SCHEMA, "recipes": recipes}
