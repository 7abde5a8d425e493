"""What ``run`` was asked for, and a run of it: the same for a recipe and for a bundle that is repeated."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from speculators.cli.options import choice_of, wanted_of

if TYPE_CHECKING:
    from speculators.benchmark.arms import Opponent
    from speculators.recipe.recipe import Recipe

PROGRESS = ("auto", "plain", "quiet")


class Asked(NamedTuple):
    """The command line of ``run``; ``overrides`` with ``--executor`` among them."""

    source: str
    overrides: list[str]
    runs_dir: Path
    only: str
    start: str
    fresh: list[str] | None
    accept: list[str] | None
    against: str | None
    itself: bool
    images: list[str] | None
    untested: bool
    locked: bool
    trusted: bool
    strict: bool
    remake: bool
    progress: str
    verbose: bool

    def command(self) -> str:
        """The command that continues this run, as a line for a shell: nothing is asked to be made anew."""
        words = ["speculators", "run", self.source]
        repeated = {"--set": self.overrides, "--image": self.images, "--accept": self.accept}
        for name, values in repeated.items():
            for value in values or []:
                words += [name, value]
        words += ["--runs-dir", str(self.runs_dir)] if self.runs_dir != Path("runs") else []
        words += ["--only", self.only] if self.only else []
        words += ["--against", self.against] if self.against else []
        flags = {"--allow-untested": self.untested, "--locked": self.locked}
        flags |= {"--trust-recipe": self.trusted, "--strict": self.strict, "--aa": self.itself}
        return shlex.join([*words, *(name for name, wish in flags.items() if wish)])


def perform(
    recipe: Recipe, asked: Asked, home: Path | None = None, against: Opponent | None = None
) -> dict[str, Any] | None:
    """Run ``recipe`` as it was asked for; its record, or None when it was interrupted.

    ``home``: instead of the user's own; ``against``: what the benchmark is held against.

    Raises:
        SpeculatorsError: whatever ended the run.
    """
    # The pipeline is imported only now: a wrong recipe is refused at once.
    from speculators.benchmark.arms import NOBODY
    from speculators.pipeline.console import Console, Voice
    from speculators.pipeline.run import Options, run_recipe, way_on

    # Being told to end is like ^C: servers are stopped and the record is closed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    choice = choice_of(asked.only, asked.start, asked.fresh, asked.accept)._replace(remake=asked.remake)
    wanted = wanted_of(asked.images, asked.untested, asked.locked)
    options = Options(asked.runs_dir, choice, asked.command(), wanted, home, against or NOBODY)
    try:
        return run_recipe(recipe, options, Console(voice=Voice(asked.progress, asked.verbose)))
    except KeyboardInterrupt:  # said here: a second one may end whatever handles the first
        typer.echo(way_on(options.command), err=True)
        return None
