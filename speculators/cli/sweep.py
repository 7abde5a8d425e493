"""``speculators sweep``: the setting that a draft should be served with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from speculators.errors import RecipeError


def sweep(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's folder, or a bundle of one.", show_default=False)
    ],
    page: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write the card as a page.", show_default=False),
    ] = None,
    package: Annotated[
        Path | None,
        typer.Option(
            "--write", metavar="DIR", help="Write the setting into this checkpoint.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    """Say how many tokens the draft of a run should propose at which load, and where speculation is off.

    The run has to have measured several settings: benchmark.depths and benchmark.concurrency. Nothing is
    run here. The schedule is checked by vLLM's own function where vLLM is installed.

    \b
    Examples:
      speculators run my.yaml --set benchmark.depths=[1,2] --set benchmark.concurrency=[1,4,8]
      speculators sweep runs/my/latest --html card.html
      speculators sweep runs/my/latest --write ./my-draft
    """
    from speculators.benchmark.card import card, schedule_checked
    from speculators.documents import write_text
    from speculators.report import card as shown
    from speculators.report.source import benchmark_of

    found = card(benchmark_of(run))
    found["checked_by_vllm"] = schedule_checked(found)
    if page is not None:
        write_text(page, shown.html(found, Path(run).resolve().name))
    if package is not None:
        from speculators.checkpoint.setting import write_setting

        if found["checked_by_vllm"] is False:
            raise RecipeError("vLLM's own function refuses the schedule: nothing is written", rule="schedule")
        write_setting(package, found["speculative_config"])
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else shown.text(found))
    return 0
