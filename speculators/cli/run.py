"""``speculators run``: from a recipe to a measured draft."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from speculators.cli.asked import PROGRESS, Asked, perform
from speculators.cli.completion import recipe_files
from speculators.cli.options import (
    Accept,
    Against,
    AllowUntested,
    ExecutorName,
    Fresh,
    From,
    ImageOverrides,
    Itself,
    Only,
    Overrides,
    RunsDir,
    Strict,
    load,
    opponent_of,
    overrides_of,
)
from speculators.cli.repeat import repeat
from speculators.errors import EXIT_INTERRUPTED, RecipeError

Source = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE|BUNDLE",
        help="A recipe, or a bundle to repeat: a file, https:// or hf:// address.",
        show_default=False,
        autocompletion=recipe_files,
    ),
]
Locked = Annotated[bool, typer.Option("--locked", help="Fail when anything differs from the recipe's lock.")]
Trust = Annotated[
    bool,
    typer.Option("--trust-recipe", help="Of a bundle: let its recipe run code, read files, see secrets."),
]
Remake = Annotated[
    bool, typer.Option("--remake-damaged", help="Make damaged stored outputs again instead of stopping.")
]
Progress = Annotated[
    str,
    typer.Option("--progress", metavar="auto|plain|quiet", help="A live line on a terminal, or plain lines."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the result and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also every line of every stage.")]
AsJson = Annotated[bool, typer.Option("--json", help="The run's record as JSON on stdout.")]


def run(
    recipe: Source,
    overrides: Overrides = None,
    runs_dir: RunsDir = Path("runs"),
    only: Only = "",
    start: From = "",
    fresh: Fresh = None,
    accept: Accept = None,
    executor: ExecutorName = "",
    images: ImageOverrides = None,
    allow_untested: AllowUntested = False,
    locked: Locked = False,
    against: Against = None,
    itself: Itself = False,
    strict: Strict = False,
    trust: Trust = False,
    remake: Remake = False,
    progress: Progress = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> int:
    """Run a recipe, from data to report.

    Finished stages are reused and interrupted ones continue, so the same command goes on where a run
    stopped. Of a bundle everything is made anew, and the verdict says whether it came out as published: same
    bytes, consistent, differs (exit code 1) or not comparable.

    \b
    Examples:
      speculators run recipes/smollm2-135m-eagle3.yaml
      speculators run my.yaml --set training.learning_rate=5e-5 --set benchmark.rounds=5
      speculators run my.yaml --only benchmark
      speculators run my.yaml --only benchmark --against recipes/baselines/my.json
      speculators run my.yaml --only benchmark --against main
      speculators run my.yaml --only benchmark --aa --set benchmark.rounds=8
      speculators run my.yaml --executor docker --locked
      speculators run my.yaml --from training
      speculators run my-recipe-20261122-115112-2aab.speculators.tar
    """
    if progress not in PROGRESS:
        raise typer.BadParameter(f"--progress is '{progress}': one of {', '.join(PROGRESS)}")
    asked = Asked(
        source=recipe,
        overrides=overrides_of(overrides, executor),
        runs_dir=runs_dir,
        only=only,
        start=start,
        fresh=fresh,
        accept=accept,
        against=against,
        itself=itself,
        images=images,
        untested=allow_untested,
        locked=locked,
        trusted=trust,
        strict=strict,
        remake=remake,
        progress="quiet" if quiet else progress,
        verbose=verbose,
    )
    from speculators.bundle.fetch import is_bundle

    return repeat(asked, as_json=as_json) if is_bundle(recipe) else run_recipe_file(asked, as_json=as_json)


def run_recipe_file(asked: Asked, *, as_json: bool) -> int:
    """Run the recipe in a file and print its verdict, or its record."""
    if asked.strict and not asked.against:
        raise typer.BadParameter(f"--strict: only with --against or for a bundle, and {asked.source} is none")
    if asked.trusted:
        raise typer.BadParameter(f"--trust-recipe: only for a bundle, and {asked.source} is none")
    recipe = load(Path(asked.source), asked.overrides)
    if recipe is None:
        return RecipeError.exit_code
    against = opponent_of(asked.against, asked.itself, asked.only, recipe)
    record = perform(recipe, asked, against=against)
    if record is None:
        return EXIT_INTERRUPTED
    typer.echo(json.dumps(record, indent=2, ensure_ascii=False) if as_json else record["verdict"])
    folder = asked.runs_dir / recipe.name / record["id"]
    if asked.itself and not as_json:
        from speculators.documents import read_json
        from speculators.report.document import NOISE
        from speculators.report.noise import text

        typer.echo(text(read_json(folder / NOISE)))
    return gated(record, folder, as_json, asked.strict) if asked.against else 0


def gated(record: Mapping[str, Any], folder: Path, as_json: bool, strict: bool) -> int:
    """Print how the run in ``folder`` compares with its baseline; the exit code says it too."""
    from speculators.benchmark.comparison import exit_code
    from speculators.cli.github import show
    from speculators.documents import read_json
    from speculators.report.comparison import sentence, text
    from speculators.report.document import COMPARISON

    comparison = read_json(folder / COMPARISON)
    if not as_json:
        typer.echo(text(comparison))
    show(comparison["verdict"], sentence(comparison), (folder / "report.md").read_text(encoding="utf-8"))
    return exit_code(record["gate"]["verdict"], strict=strict)
