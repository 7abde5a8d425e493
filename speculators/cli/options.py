"""Arguments that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speculators.cli.completion import recipe_files, settings, stages

if TYPE_CHECKING:
    from speculators.benchmark.arms import Opponent
    from speculators.pipeline.choice import Choice
    from speculators.pipeline.premises import Wanted
    from speculators.recipe.recipe import Recipe

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change a value, as in training.epochs=2 or benchmark.concurrency=[1,8]. Repeatable.",
        show_default=False,
        autocompletion=settings,
    ),
]
RecipePath = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE", help="A recipe, a YAML file.", show_default=False, autocompletion=recipe_files
    ),
]
RecipePaths = Annotated[
    list[Path],
    typer.Argument(
        metavar="RECIPE", help="Recipes, YAML files.", show_default=False, autocompletion=recipe_files
    ),
]
RunsDir = Annotated[
    Path, typer.Option("--runs-dir", metavar="PATH", file_okay=False, help="Where run folders go.")
]
Only = Annotated[
    str,
    typer.Option(
        "--only",
        metavar="STAGE",
        help="This stage and no other.",
        show_default=False,
        autocompletion=stages,
    ),
]
From = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="STAGE",
        help="Make this stage and all after it anew.",
        show_default=False,
        autocompletion=stages,
    ),
]
Fresh = Annotated[
    list[str] | None,
    typer.Option(
        "--fresh",
        metavar="[STAGE]",
        help="Make this stage anew, without STAGE all of them. Repeatable.",
        show_default=False,
        autocompletion=stages,
    ),
]
Accept = Annotated[
    list[str] | None,
    typer.Option(
        "--accept",
        metavar="STAGE",
        help="Keep this stage's output although code has changed. Repeatable.",
        show_default=False,
        autocompletion=stages,
    ),
]

ExecutorName = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="docker|local",
        help="Where stages run, instead of the recipe's executor.",
        show_default=False,
    ),
]
ImageOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--image",
        metavar="NAME=REF",
        help="Another image for a role (engine, trainer, bench) or a name in images.yaml. Repeatable.",
        show_default=False,
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Exit 5 when nothing can be decided, of a gate or of a bundle.")
]


def _named(against: str | None) -> str | None:
    """``--against`` as it was given; an empty one is no name, and mostly a variable that nobody set."""
    if against is not None and not against.strip():
        raise typer.BadParameter("empty, so nothing would be gated: name a baseline or leave --against out")
    return against


Against = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="BASELINE",
        callback=_named,
        help="Gate the benchmark; a regression exits 1. A run's folder, bundle or baseline file counts as "
        "stored; a checkpoint's folder, another recipe or a git ref is measured in the same rounds.",
        show_default=False,
    ),
]
Itself = Annotated[
    bool,
    typer.Option(
        "--aa", help="Measure the draft beside itself: the noise here, and the smallest loss it shows."
    ),
]
AllowUntested = Annotated[
    bool, typer.Option("--allow-untested", help="Take images that this project does not ship.")
]


def overrides_of(overrides: list[str] | None, executor: str) -> list[str]:
    """``--set`` with ``--executor``, which is short for one of them."""
    return [*(overrides or []), *([f"executor={executor}"] if executor else [])]


def wanted_of(images: list[str] | None, untested: bool, locked: bool = False) -> Wanted:
    """The options on images and the lock as the pipeline takes them."""
    from speculators.pipeline.premises import Wanted

    replaced: dict[str, str] = {}
    for given in images or []:
        name, sign, reference = given.partition("=")
        if not (name and sign and reference):
            raise typer.BadParameter(f"--image {given}: give NAME=REFERENCE")
        replaced[name] = reference
    return Wanted(replaced, untested, locked)


def choice_of(only: str, start: str, fresh: list[str] | None, accept: list[str] | None) -> Choice:
    """The options above as the pipeline takes them."""
    from speculators.pipeline.choice import Choice

    return Choice(only, start, frozenset(fresh or ()), frozenset(accept or ()))


def load(path: Path, overrides: list[str] | None) -> Recipe | None:
    """The recipe in ``path``; None when it has errors.  Diagnostics go to stderr."""
    from speculators.cli.github import annotate
    from speculators.recipe.diagnostics import render_all
    from speculators.recipe.recipe import load_recipe

    loaded = load_recipe(path, overrides or [])
    if loaded.diagnostics:
        typer.echo(render_all(loaded.diagnostics), err=True)
        annotate(loaded.diagnostics)
    return loaded.recipe


def opponent_of(against: str | None, itself: bool, only: str, recipe: Recipe) -> Opponent:
    """What the benchmark is held against; nobody without ``--against`` and ``--aa``."""
    from speculators.benchmark.arms import NOBODY, Opponent
    from speculators.pipeline.opponent import named
    from speculators.pipeline.store import default_home
    from speculators.recipe.view import free_kind

    if against is None and not itself:
        return NOBODY
    flag = "--aa" if itself else "--against"
    if against is not None and itself:
        raise typer.BadParameter("--aa measures the draft beside itself: leave --against out")
    if only not in ("", "benchmark"):
        raise typer.BadParameter(f"{flag} is of the benchmark, which --only {only} leaves out")
    if against is not None:
        return named(against, recipe, default_home())
    if kind := free_kind(recipe.data):
        raise typer.BadParameter(f"--aa measures a draft beside itself, and kind '{kind}' has none")
    if few := [name for name in ("rounds", "requests") if recipe.data["benchmark"][name] < 2]:
        raise typer.BadParameter(f"--aa tells noise by its spread: benchmark.{few[0]} must be 2 or more")
    return Opponent(itself=True)
