"""``speculators plan``: what would run, and why."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

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
    RecipePath,
    RunsDir,
    choice_of,
    load,
    opponent_of,
    overrides_of,
    wanted_of,
)
from speculators.errors import EXIT_WORK


def plan(
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
    against: Against = None,
    itself: Itself = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    detailed: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit 10 when a stage before the benchmark would run.")
    ] = False,
) -> int:
    """Show what a run would do and why, without doing it.

    No GPU or network is needed. A container engine is asked only for images that were built here and that no
    lock pins; where none answers, the plan says so. Exit code 2, below the plan, when the recipe's lock would
    keep a run from starting.

    \b
    Examples:
      speculators plan my.yaml
      speculators plan my.yaml --set training.learning_rate=5e-5
      speculators plan my.yaml --only benchmark --against baselines/my.json
      speculators plan my.yaml --detailed-exitcode --json
    """
    loaded = load(recipe, overrides_of(overrides, executor))
    if loaded is None:
        return 2
    from speculators.pipeline import plan_text, training_step
    from speculators.pipeline.machine import needs
    from speculators.pipeline.plan import plan as make_plan
    from speculators.pipeline.premises import lock_refusal, planned_surroundings
    from speculators.pipeline.record import benchmark_seconds
    from speculators.pipeline.store import Store, default_home

    wanted = wanted_of(images, allow_untested)
    where = planned_surroundings(loaded, wanted)
    choice, held = choice_of(only, start, fresh, accept), opponent_of(against, itself, only, loaded)
    planned = make_plan(loaded, Store(default_home()), choice, where, held)
    seconds = benchmark_seconds(runs_dir, loaded.name)
    costs = training_step.training_costs(loaded, os.environ)
    taken = needs.taken_by(loaded, os.environ)
    refused = lock_refusal(loaded, wanted, default_home())
    if as_json:
        document = {
            **plan_text.document(loaded.name, planned, seconds),
            "training_step": training_step.documents(costs),
            "needs": needs.document(taken),
            "refused": refused and refused.document(),
        }
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        # What was made once is known, and stands in the table.
        ahead = needs.told(taken) if plan_text.has_work(planned) else []
        typer.echo(
            "\n".join([plan_text.table(loaded.name, planned, seconds), *ahead, *training_step.told(costs)])
        )
    if refused:
        raise refused
    return EXIT_WORK if detailed and plan_text.has_work(planned) else 0
