"""``speculators report``: what a finished run found, in the form that is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

FORMATS = ("md", "json", "baseline")


def report(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's folder, or a bundle of one.", show_default=False)
    ],
    form: Annotated[
        str,
        typer.Option("--format", metavar="md|json|baseline", help="The page, its figures, or a baseline."),
    ] = "md",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write there instead of stdout.")
    ] = None,
) -> int:
    """Show what a finished run found; nothing is run.

    A baseline is what later runs are gated against: commit it, so that accepting another speed is a reviewed
    change. More rounds make a better one: twelve, if the time is there.

    \b
    Examples:
      speculators report runs/my/latest
      speculators report runs/my/latest --format baseline --out recipes/baselines/my.json
      speculators run my.yaml --only benchmark --against recipes/baselines/my.json
    """
    if form not in FORMATS:
        raise typer.BadParameter(f"--format is '{form}': one of {', '.join(FORMATS)}")
    from speculators.documents import write_text
    from speculators.report.source import load_source, report_of

    if form == "baseline":
        text = json.dumps(load_source(run).measured.document(), indent=1, ensure_ascii=False) + "\n"
    else:
        document = report_of(run)
        if form == "json":
            text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        else:
            from speculators.report.markdown import render

            text = render(document)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_text(out, text)
    return 0
