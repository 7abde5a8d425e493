"""The command tree and the one error handler.

Verbs import their work inside the function that does it, so that ``--help`` costs only typer.
A verb returns its exit code; whatever it raises ends here.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.completion import completion_init  # type: ignore[attr-defined]  # used there, not re-exported

from speculators import __version__
from speculators.cli.bundle import bundle
from speculators.cli.cache import cache
from speculators.cli.certify import certify
from speculators.cli.check import check
from speculators.cli.compare import compare
from speculators.cli.completion import VARIABLE, completion
from speculators.cli.convert import convert
from speculators.cli.doctor import doctor
from speculators.cli.errors import bug_text, error_text
from speculators.cli.images import images
from speculators.cli.inspect import inspect
from speculators.cli.lock import lock
from speculators.cli.plan import plan
from speculators.cli.publish import publish
from speculators.cli.render import render
from speculators.cli.report import report
from speculators.cli.retarget import retarget
from speculators.cli.run import run
from speculators.cli.schema import schema
from speculators.cli.show import show
from speculators.cli.sweep import sweep
from speculators.cli.verify import verify
from speculators.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    EXIT_UNREAD,
    MACHINE_ERRNOS,
    RecipeError,
    SpeculatorsError,
    storage_error,
)

#: Base of what typer raises for a command line it cannot parse: click's class, or since typer 0.26
#: its own; only the leaf is public in both.
CommandLineError: Any = next(
    base for base in reversed(typer.BadParameter.__mro__) if hasattr(base, "format_message")
)

EPILOG = """\b
Examples:
  speculators show --list
  speculators check recipes/smollm2-135m-eagle3.yaml
  speculators doctor recipes/smollm2-135m-eagle3.yaml
  speculators plan recipes/smollm2-135m-eagle3.yaml
  speculators run recipes/smollm2-135m-eagle3.yaml
  speculators run recipes/smollm2-135m-eagle3.yaml --set training.epochs=2

\b
Exit codes:
  0 ok   1 a regression, or a repeated run differs   2 recipe, lock or command line wrong
  3 a stage failed   4 the machine lacks something   5 nothing could be decided (--strict)
  6 inspect found a defect   10 the plan has work (plan --detailed-exitcode)
  70 a bug of ours   130 interrupted
"""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"speculators {__version__}")
        raise typer.Exit(0)


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Make a language model answer faster: train, serve and measure a speculative draft from one recipe."""


def build_app() -> typer.Typer:
    """The command tree: a row a verb."""
    # Rich help and completion would double the time of --help.
    app = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(epilog=EPILOG)(root)
    recipes_and_runs = (check, show, doctor, plan, run, report, compare, sweep, lock)
    bundles = (bundle, verify, publish, render)
    checkpoints = (certify, convert, retarget, inspect)
    for verb in (*recipes_and_runs, *bundles, *checkpoints, schema, completion):
        app.command(verb.__name__)(verb)
    app.add_typer(cache(), name="cache")
    app.add_typer(images, name="images")
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code of errors.py and prints every failure."""
    command = typer.main.get_command(build_app())
    if VARIABLE in os.environ:  # the shell asks what could come next
        completion_init()
    given = with_fresh_names(list(sys.argv[1:] if arguments is None else arguments)) or ["--help"]
    try:
        code = int(command.main(given, prog_name="speculators", standalone_mode=False) or 0)
        if code == EXIT_INTERRUPTED:  # typer turns ^C into an exit code
            raise KeyboardInterrupt
        return code
    except SpeculatorsError as error:
        return report_failure(error)
    except OSError as error:
        if error.errno not in MACHINE_ERRNOS:
            return report_bug()
        return report_failure(storage_error(error))
    except SystemExit as ended:
        if ended.code != 1:
            raise
        return EXIT_UNREAD  # typer's way to leave when nobody reads stdout any more
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except CommandLineError as error:
        hint = "'speculators --help' and 'speculators VERB --help' show what there is"
        return report_failure(RecipeError(error.format_message(), hint=hint, rule="usage"))
    except Exception:  # the outermost handler: whatever is left is our bug
        return report_bug()


def with_fresh_names(arguments: list[str]) -> list[str]:
    """``--fresh`` without a stage means all of them; typer has no options with an optional value.

    What follows is no stage if it is an option or, with a point in it, a recipe's file.  ``certify`` has an
    option of that name without a value.
    """
    if arguments[:1] == ["certify"]:
        return arguments
    given: list[str] = []
    for word, following in zip(arguments, [*arguments[1:], ""]):
        given.append(word)
        if word == "--fresh" and (following.startswith("-") or not following or "." in following):
            given.append("all")
    return given


def report_failure(error: SpeculatorsError) -> int:
    """Print ``error`` with its way out; its exit code."""
    from speculators.cli.github import fail

    text = error_text(error)
    print(text, file=sys.stderr)
    fail(error.rule, text)
    return error.exit_code


def report_bug() -> int:
    """Print the exception being handled, and what to do with it."""
    traceback.print_exc()
    print(bug_text(), file=sys.stderr)
    return EXIT_BUG
