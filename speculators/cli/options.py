"""Arguments that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change a value, as in training.epochs=2 or benchmark.concurrency=[1,8]. Repeatable.",
        show_default=False,
    ),
]
RecipePath = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe, a YAML file.", show_default=False)
]
RecipePaths = Annotated[
    list[Path], typer.Argument(metavar="RECIPE", help="Recipes, YAML files.", show_default=False)
]
