"""``speculators run``: from a recipe to a measured draft."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from speculators.cli.options import (
    Accept,
    AllowUntested,
    ExecutorName,
    Fresh,
    From,
    ImageOverrides,
    Only,
    Overrides,
    RecipePath,
    RunsDir,
    choice_of,
    load,
    overrides_of,
    wanted_of,
)
from speculators.errors import EXIT_INTERRUPTED

Progress = Annotated[
    str,
    typer.Option("--progress", metavar="auto|plain|quiet", help="A live line on a terminal, or plain lines."),
]


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    runs_dir: RunsDir = Path("runs"),
    only: Only = "",
    start: From = "",
    fresh: Fresh = None,
    accept: Accept = None,
    executor: ExecutorName = "",
    images: ImageOverrides = None,
    allow_untested: AllowUntested = False,
    locked: Annotated[
        bool, typer.Option("--locked", help="Fail when anything differs from the recipe's lock.")
    ] = False,
    remake: Annotated[
        bool, typer.Option("--remake-damaged", help="Make damaged stored outputs again instead of stopping.")
    ] = False,
    progress: Progress = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the result and errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also every line of every stage.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The run's record as JSON on stdout.")] = False,
) -> int:
    """Run a recipe, from data to report.

    Finished stages are reused and interrupted ones continue, so the same command goes on where a run
    stopped.

    \b
    Examples:
      speculators run recipes/smollm2-135m-eagle3.yaml
      speculators run my.yaml --set training.learning_rate=5e-5 --set benchmark.rounds=5
      speculators run my.yaml --only benchmark
      speculators run my.yaml --executor docker --locked
      speculators run my.yaml --from training
    """
    if progress not in ("auto", "plain", "quiet"):
        raise typer.BadParameter(f"--progress is '{progress}': one of auto, plain, quiet")
    given = overrides_of(overrides, executor)
    loaded = load(recipe, given)
    if loaded is None:
        return 2
    # The pipeline is imported only now: a wrong recipe is refused at once.
    from speculators.pipeline.console import QUIET, Console, Voice
    from speculators.pipeline.run import Options, run_recipe

    # Being told to end is like ^C: servers are stopped and the record is closed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(voice=Voice(QUIET if quiet else progress, verbose))
    options = Options(
        runs_dir,
        choice_of(only, start, fresh, accept)._replace(remake=remake),
        command_line(
            recipe,
            {"--set": given, "--image": images, "--accept": accept},
            runs_dir,
            only,
            [name for name, wish in (("--allow-untested", allow_untested), ("--locked", locked)) if wish],
        ),
        wanted_of(images, allow_untested, locked),
    )
    try:
        record = run_recipe(loaded, options, console)
    except KeyboardInterrupt as interrupt:  # typer would drop the words
        typer.echo("\n".join(interrupt.args), err=True)
        return EXIT_INTERRUPTED
    typer.echo(json.dumps(record, indent=2, ensure_ascii=False) if as_json else record["verdict"])
    return 0


def command_line(
    recipe: Path, repeated: Mapping[str, list[str] | None], runs_dir: Path, only: str, flags: Sequence[str]
) -> str:
    """The command that continues this run, as a line for a shell."""
    words = ["speculators", "run", str(recipe)]
    for name, values in repeated.items():
        for value in values or []:
            words += [name, value]
    words += ["--runs-dir", str(runs_dir)] if runs_dir != Path("runs") else []
    words += ["--only", only] if only else []
    return shlex.join([*words, *flags])
