"""``speculators show``: a recipe as it is written, or as it comes out, with where each value is from."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speculators.cli.completion import known_recipes
from speculators.cli.options import Overrides, load

if TYPE_CHECKING:
    from speculators.recipe.recipe import Recipe

SHOW_SCHEMA = "speculators/show/v1"

Shown = Annotated[
    str,
    typer.Argument(
        metavar="[RECIPE|NAME]",
        help="A recipe's file, or the name of one that comes along.",
        show_default=False,
        autocompletion=known_recipes,
    ),
]


def show(
    recipe: Shown = "",
    overrides: Overrides = None,
    list_all: Annotated[bool, typer.Option("--list", help="Name the recipes that come along.")] = False,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="With every default, parent and --set filled in.")
    ] = False,
    origin: Annotated[
        bool, typer.Option("--origin", help="The same, with file:line beside each value.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    """Show a recipe, or which ones come along.

    Without an option it is the file itself with its comments, to be copied and changed.
    A run.yaml of vllm-project/speculators is shown as the recipe that it stands for,
    with an account of each of its values.

    \b
    Examples:
      speculators show --list
      speculators show qwen3-8b-eagle3 > mine.yaml
      speculators show output/checkpoints/run.yaml > mine.yaml
      speculators show mine.yaml --origin
      speculators show mine.yaml --resolved --set training.epochs=2
    """
    if list_all == bool(recipe):
        raise typer.BadParameter("give a recipe, or --list")
    if list_all:
        return _list(as_json)
    from speculators.recipe.shipped import find_recipe

    path = find_recipe(recipe)
    if not (resolved or origin or as_json or overrides):
        return _text(path, is_copy=path != Path(recipe))
    loaded = load(path, overrides)
    if loaded is None:
        return 2
    typer.echo(_resolved(loaded, origin=origin, as_json=as_json), nl=False)
    return 0


def _list(as_json: bool) -> int:
    from speculators.recipe.shipped import shipped

    found = shipped()
    if as_json:
        rows = [{"name": one.name, "description": one.description} for one in found]
        typer.echo(json.dumps({"schema": SHOW_SCHEMA, "recipes": rows}, indent=2, ensure_ascii=False))
        return 0
    width = max(len(one.name) for one in found)
    for one in found:
        typer.echo(f"{one.name:<{width}}  {one.description}")
    return 0


def _text(path: Path, *, is_copy: bool) -> int:
    """The file as it is; of one that comes along also what belongs beside a copy."""
    from speculators.errors import RecipeError
    from speculators.recipe.inheritance import UnusableError, read_source
    from speculators.recipe.reference_run import is_reference_run
    from speculators.recipe.shipped import instead_of
    from speculators.recipe.yaml_loader import load_yaml

    try:
        text = read_source(path).text
    except UnusableError as error:
        raise RecipeError(f"{path}: {error}", hint=instead_of(path), rule="unreadable") from error
    if is_reference_run(run := load_yaml(text, str(path)).data):
        return _translated(path, run)
    typer.echo(text, nl=False)
    if is_copy and (recipe := load(path, None)):
        for line in _beside(recipe):
            typer.echo(line, err=True)
    return 0


def _translated(path: Path, data: dict[str, Any]) -> int:
    """The recipe that a run of the reference system stands for."""
    from speculators.recipe.facts import find_facts
    from speculators.recipe.reference_run import Run, translate, verifier_block
    from speculators.recipe.yaml_writer import dump_yaml

    run = Run(data, str(path))
    facts = find_facts(verifier_block(run), Path(), os.environ)
    recipe, account = translate(run, facts)
    typer.echo(dump_yaml(recipe), nl=False)
    typer.echo(f"\n# What became of the values of {path.name}:")
    for line in account:
        typer.echo(f"#   {line}")
    differing = sum(" DIFFERS: " in line for line in account)
    counted = f"{len(account)} values are accounted for in its last lines"
    typer.echo(f"note: {counted}, {differing} of which cannot be had here", err=True)
    typer.echo(f"note: it names {recipe['benchmark']['prompts']}, which a run.yaml does not have", err=True)
    return 0


def _beside(recipe: Recipe) -> list[str]:
    """What a copy of a recipe needs in its folder, and how to put it there."""
    folder = recipe.path.absolute().parent
    named = {file for files in recipe.files().values() for file in files}
    named |= {source.path.absolute() for source in recipe.sources[1:]}
    tops = sorted({file.relative_to(folder).parts[0] for file in named if file.is_relative_to(folder)})
    copy = shlex.join(["cp", "-r", *(str(folder / top) for top in tops), "."])
    return [
        f"note: it names {', '.join(tops)} beside it: {copy}",
        "note: for an editor: speculators schema > recipe.v1.json, and $schema=recipe.v1.json in line 1",
    ]


def _resolved(recipe: Recipe, *, origin: bool, as_json: bool) -> str:
    from speculators.recipe.origin import annotated, origins

    if as_json:
        document: dict[str, Any] = {"schema": SHOW_SCHEMA, "recipe": recipe.data, "origin": origins(recipe)}
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    return annotated(recipe) if origin else recipe.resolved_yaml()
