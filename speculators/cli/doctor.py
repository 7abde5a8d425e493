"""``speculators doctor``: what this machine lacks, all at once, before anything is spent on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speculators.cli.options import Overrides

if TYPE_CHECKING:
    from speculators.pipeline.machine.findings import Finding
    from speculators.recipe.recipe import Recipe

OptionalRecipe = Annotated[
    Path | None,
    typer.Argument(
        metavar="[RECIPE]", help="A recipe: also check what running it takes.", show_default=False
    ),
]
MARKS = {"ok": "ok", "warning": "!", "missing": "--", "not checked": "?"}


def doctor(
    recipe: OptionalRecipe = None,
    overrides: Overrides = None,
    runs_dir: Annotated[
        Path, typer.Option("--runs-dir", metavar="PATH", help="Where run folders would go.")
    ] = Path("runs"),
    clean: Annotated[
        bool,
        typer.Option("--clean", help="Remove unfinished outputs that no run holds, end orphaned processes."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    """Check what this machine lacks.

    Packages, engine, memory, disk, models, left-overs: everything at once, each with its mend.
    Nothing is downloaded. Marks: ok, ! warning, -- missing, ? not checked. Exit code 4 when
    something is missing. After --clean, interrupted stages start over.

    \b
    Examples:
      speculators doctor
      speculators doctor recipes/smollm2-135m-eagle3.yaml
      speculators doctor --clean
    """
    from speculators.cli.check import show_loaded
    from speculators.recipe.recipe import load_recipe

    if overrides and recipe is None:
        raise typer.BadParameter("--set changes a recipe: name one, or leave --set out")
    loaded = load_recipe(recipe, overrides or []) if recipe else None
    if recipe and loaded and loaded.recipe is None:
        show_loaded({recipe: loaded}, as_json)
        return 2
    return _examine(loaded.recipe if loaded else None, runs_dir, clean, as_json)


def _examine(recipe: Recipe | None, runs_dir: Path, clean: bool, as_json: bool) -> int:
    import os

    from speculators.errors import MachineError
    from speculators.pipeline import doctor as machine
    from speculators.pipeline.machine.findings import lacking
    from speculators.pipeline.store import default_home

    home = default_home()
    done = machine.clean(home) if clean else []
    findings = [*done, *machine.examine(machine.subject_of(home, runs_dir, os.environ, recipe))]
    document = machine.report(findings)
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False) if as_json else text(findings))
    return MachineError.exit_code if lacking(findings) else 0


def text(findings: list[Finding]) -> str:
    """A line a finding; a mend stands once below the findings that share it."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding, following in zip(findings, [*findings[1:], None]):
        lines.append(f"{MARKS[finding.state]:<2}  {finding.check:<{width}}  {finding.detail}")
        if finding.mend and (following is None or following.mend != finding.mend):
            lines.append(f"      = help: {finding.mend}")
    return "\n".join([*lines, verdict(findings)])


def verdict(findings: list[Finding]) -> str:
    """The last line: how many of what is not in order."""
    counts = {state: sum(finding.state == state for finding in findings) for state in MARKS if state != "ok"}
    told = ", ".join(f"{count} {_plural(state, count)}" for state, count in counts.items() if count)
    return told or "nothing is missing"


def _plural(state: str, count: int) -> str:
    return "warnings" if state == "warning" and count > 1 else state
