"""``speculators compare``: what became of a speedup between two runs."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from speculators.cli.options import Strict


def compare(
    old: Annotated[
        str,
        typer.Argument(metavar="A", help="A run's folder, a bundle or a baseline file.", show_default=False),
    ],
    new: Annotated[
        str, typer.Argument(metavar="B", help="The one that is judged, named likewise.", show_default=False)
    ],
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Compare across machines and load generators, and say so.")
    ] = False,
    strict: Strict = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    as_markdown: Annotated[bool, typer.Option("--md", help="A Markdown section.")] = False,
) -> int:
    """Compare two finished benchmarks; nothing is run.

    Speedups are compared, each against the plain serving of its own sitting, by Welch's t on their logarithms
    over rounds. Runs of other prompts, verifiers or machines are refused. Exits 1 on a regression, 2 when the
    two cannot be compared, in doubt 0, or 5 under --strict.

    \b
    Examples:
      speculators compare recipes/baselines/my.json runs/my/latest
      speculators compare published.speculators.tar runs/my/latest --md
      speculators compare runs/my/20261122-115112-2aab runs/my/latest --json --strict
    """
    from speculators.benchmark.comparison import exit_code
    from speculators.cli.github import show
    from speculators.report import comparison as spelled
    from speculators.report.source import compare_sources, load_source

    found = compare_sources(load_source(old), load_source(new), anyway=anyway)
    document = found.document()
    if as_json:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        typer.echo(spelled.markdown(document) if as_markdown else spelled.text(document))
    show(found.verdict, spelled.sentence(document), spelled.markdown(document))
    return exit_code(found.verdict, strict=strict)
