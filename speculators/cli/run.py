"""``speculators run``: from a recipe to a measured draft."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    RunsDir,
    choice_of,
    load,
    overrides_of,
    wanted_of,
)
from speculators.errors import EXIT_INTERRUPTED, RecipeError

if TYPE_CHECKING:
    from speculators.bundle.repeat import Repeat

Progress = Annotated[
    str,
    typer.Option("--progress", metavar="auto|plain|quiet", help="A live line on a terminal, or plain lines."),
]


def run(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|BUNDLE",
            help="A recipe, or a bundle to repeat: a file, https:// or hf:// address.",
            show_default=False,
        ),
    ],
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
    strict: Annotated[
        bool, typer.Option("--strict", help="Of a bundle: exit 5 when nothing can be compared.")
    ] = False,
    trust: Annotated[
        bool,
        typer.Option("--trust-recipe", help="Of a bundle: let its recipe run code, read files, see secrets."),
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
    stopped. Of a bundle everything is made anew, and the verdict says whether it came out as published: same
    bytes, consistent, differs (exit code 1) or not comparable.

    \b
    Examples:
      speculators run recipes/smollm2-135m-eagle3.yaml
      speculators run my.yaml --set training.learning_rate=5e-5 --set benchmark.rounds=5
      speculators run my.yaml --only benchmark
      speculators run my.yaml --executor docker --locked
      speculators run my.yaml --from training
      speculators run my-recipe-20261122-115112-2aab.speculators.tar
    """
    if progress not in ("auto", "plain", "quiet"):
        raise typer.BadParameter(f"--progress is '{progress}': one of auto, plain, quiet")
    require_whole(recipe, {"--only": only, "--from": start, "--accept": accept})
    given = overrides_of(overrides, executor)
    repeat = published(recipe, runs_dir, given, trust, locked)
    loaded = load(repeat.recipe if repeat else Path(recipe), given)
    if loaded is None:
        return 2
    # The pipeline is imported only now: a wrong recipe is refused at once.
    from speculators.pipeline.console import QUIET, Console, Voice
    from speculators.pipeline.run import Options, run_recipe, way_on

    # Being told to end is like ^C: servers are stopped and the record is closed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(voice=Voice(QUIET if quiet else progress, verbose))
    flags = (("--allow-untested", allow_untested), ("--locked", locked), ("--trust-recipe", trust))
    options = Options(
        runs_dir,
        choice_of(only, start, fresh, accept)._replace(remake=remake),
        command_line(
            recipe,
            {"--set": given, "--image": images, "--accept": accept},
            runs_dir,
            only,
            [name for name, wish in flags if wish],
        ),
        wanted_of(images, allow_untested, locked),
        repeat.home if repeat else None,
    )
    try:
        record = run_recipe(loaded, options, console)
    except KeyboardInterrupt:  # said here: a second one may end whatever handles the first
        typer.echo(way_on(options.command), err=True)
        return EXIT_INTERRUPTED
    except RecipeError as error:
        if repeat:
            error.hint = repeat.way_on(error)
        raise
    if repeat:
        return verdict_of(repeat, runs_dir / record["recipe"]["name"] / record["id"], as_json, strict)
    typer.echo(json.dumps(record, indent=2, ensure_ascii=False) if as_json else record["verdict"])
    return 0


def require_whole(source: str, options: Mapping[str, object]) -> None:
    """Refuse to repeat a part of a bundle: only a whole run, made anew, can be judged.

    Raises:
        BadParameter: the source is a bundle, and one of ``options`` is given.
    """
    from speculators.bundle.fetch import is_bundle

    if (given := [name for name, value in options.items() if value]) and is_bundle(source):
        hint = "a bundle is repeated as a whole, for its verdict"
        raise typer.BadParameter(f"{', '.join(given)}: {hint}; for a part of it run its recipe")


def published(
    source: str, runs_dir: Path, overrides: list[str], trusted: bool, locked: bool
) -> Repeat | None:
    """The bundle ``source``, verified and unpacked below ``runs_dir``; None when it is a recipe."""
    from speculators.bundle.fetch import is_bundle

    if not is_bundle(source):
        return None
    from speculators.bundle.repeat import prepare

    return prepare(source, runs_dir / "repeats", overrides, trusted=trusted, locked=locked)


def verdict_of(repeat: Repeat, folder: Path, as_json: bool, strict: bool) -> int:
    """Close the repeat, the run in ``folder``, and print how it compares with the published one.

    The exit code says it too.
    """
    from speculators.bundle.repeat import conclude, leave

    leave(repeat.home)
    verdict = conclude(repeat.published, folder)
    typer.echo(json.dumps(verdict.document(), indent=2, ensure_ascii=False) if as_json else verdict.text())
    return verdict.exit_code(strict=strict)


def command_line(
    recipe: str, repeated: Mapping[str, list[str] | None], runs_dir: Path, only: str, flags: Sequence[str]
) -> str:
    """The command that continues this run, as a line for a shell."""
    words = ["speculators", "run", recipe]
    for name, values in repeated.items():
        for value in values or []:
            words += [name, value]
    words += ["--runs-dir", str(runs_dir)] if runs_dir != Path("runs") else []
    words += ["--only", only] if only else []
    return shlex.join([*words, *flags])
