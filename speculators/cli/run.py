"""``speculators run``: from a recipe to a measured draft."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from speculators.cli.options import Overrides, RecipePath

RunsDir = Annotated[Path, typer.Option("--runs-dir", metavar="PATH", help="Where run folders go.")]


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    runs_dir: RunsDir = Path("runs"),
) -> int:
    """Run a recipe, from data to report.

    Finished stages are reused, so the same command continues an interrupted run.

    \b
    Examples:
      speculators run recipes/smollm2-135m-eagle3.yaml
      speculators run my.yaml --set training.learning_rate=5e-5 --set benchmark.rounds=5
    """
    from speculators.recipe.diagnostics import render_all
    from speculators.recipe.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    if loaded.diagnostics:
        typer.echo(render_all(loaded.diagnostics), err=True)
    if loaded.recipe is None:
        return 2
    # The pipeline is imported only now: a wrong recipe is refused at once.
    from speculators.pipeline.run import run_recipe

    # Being told to end is like ^C: servers are stopped and the record is closed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return run_recipe(loaded.recipe, runs_dir)
