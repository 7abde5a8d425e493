"""``speculators report``: what a finished run found, in the form that is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from speculators.cli.output import put


def report(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's folder, or a bundle of one.", show_default=False)
    ],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="md|html|json|card|baseline",
            help="The page as Markdown or HTML, its figures, a model card, or a baseline.",
        ),
    ] = "md",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", dir_okay=False, help="Write there instead of stdout."),
    ] = None,
) -> int:
    """Show what a finished run found; nothing is run.

    A baseline is what later runs are gated against: commit it, so that accepting another speed is a reviewed
    change. It needs five rounds, and more make a better one: twelve, if the time is there. A card is a
    Hugging Face model card: the checkpoint's own with what was measured, the recipe and the lock.

    \b
    Examples:
      speculators report runs/my/latest
      speculators report my-0412.speculators.tar --format html --out report.html
      speculators report runs/my/latest --format card --out README.md
      speculators report runs/my/latest --format baseline --out recipes/baselines/my.json
      speculators run my.yaml --only benchmark --against recipes/baselines/my.json
    """
    if form not in FORMATS:
        raise typer.BadParameter(f"--format is '{form}': one of {', '.join(FORMATS)}")
    text = FORMATS[form](run)
    if out is None:
        typer.echo(text, nl=False)
    else:
        put(out, text)
    return 0


def markdown(run: str) -> str:
    from speculators.report.markdown import render
    from speculators.report.source import report_of

    return render(report_of(run))


def html(run: str) -> str:
    from speculators.report.page import render
    from speculators.report.source import report_of

    return render(report_of(run))


def figures(run: str) -> str:
    from speculators.report.source import report_of

    return json.dumps(report_of(run), indent=2, ensure_ascii=False) + "\n"


def card(run: str) -> str:
    from speculators.report.source import card_of

    return card_of(run)


def baseline(run: str) -> str:
    from speculators.benchmark.comparison import no_baseline
    from speculators.errors import RecipeError
    from speculators.report.source import load_source

    measured = load_source(run).measured
    if reasons := list(no_baseline(measured)):
        raise RecipeError(
            f"{run}: no baseline: {'; '.join(reasons)}",
            hint="measure more: speculators run RECIPE --only benchmark --set benchmark.rounds=12",
            rule="no-baseline",
        )
    return json.dumps(measured.document(), indent=1, ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[str], str]] = {
    "md": markdown,
    "html": html,
    "json": figures,
    "card": card,
    "baseline": baseline,
}
