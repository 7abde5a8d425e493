"""``speculators sweep``: the setting that a draft should be served with."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from speculators.cli.output import put
from speculators.errors import RecipeError


def sweep(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run's folder, its model/, or a bundle of one.", show_default=False
        ),
    ],
    page: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", dir_okay=False, help="Write the card as a page.", show_default=False
        ),
    ] = None,
    package: Annotated[
        Path | None,
        typer.Option(
            "--write",
            metavar="DIR",
            help="Write the setting into this copy of the draft's checkpoint.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    """Say how many tokens the draft of a run should propose at which load, and where speculation is off.

    The run has to have measured several settings: benchmark.depths and benchmark.concurrency. That costs a
    launch for each number of tokens, itself 0, and round; each launch serves all loads. Nothing is run here.
    A draft that was not measured gets a recipe first that names it (draft: DIR). A schedule is checked by
    vLLM's own function where vLLM is installed.

    \b
    Examples:
      speculators run my.yaml --set benchmark.depths=[1,2] --set benchmark.concurrency=[1,2,4,8]
      speculators sweep runs/my/latest
      speculators sweep runs/my/latest --html card.html --write ./my-draft
    """
    from speculators.benchmark.card import card, schedule_checked
    from speculators.report import card as shown
    from speculators.report.source import benchmark_of, weights_of

    run = measured_run(run)
    found = card(benchmark_of(run))
    found["checked_by_vllm"] = schedule_checked(found)
    if page is not None:
        put(page, shown.html(found, Path(run).resolve().name))
    if package is not None:
        from speculators.checkpoint.setting import write_setting

        if found["checked_by_vllm"] is False:
            raise RecipeError("vLLM's own function refuses the schedule: nothing is written", rule="schedule")
        require_unsealed(package)
        write_setting(package, found["speculative_config"], weights_of(run))
        for line in written(package, found):
            typer.echo(line, err=True)
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else shown.text(found))
    return 0


def measured_run(source: str) -> str:
    """The run at ``source``, or that whose checkpoint it is.

    Raises:
        RecipeError: it is a recipe, or a checkpoint that no run measured.
    """
    from speculators.pipeline.record import RECORD_NAME

    path = Path(source)
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        raise _unmeasured(f"{source}: a recipe", "", source, 3)
    if (path / RECORD_NAME).is_file() or not is_checkpoint(path):
        return source
    if (path.parent / RECORD_NAME).is_file():
        return str(path.parent)
    from speculators.recipe.draft_rules import proposes

    made = proposes(path)
    first = f"write a recipe my.yaml with 'draft: {path.resolve()}'; "
    raise _unmeasured(
        f"{source}: a checkpoint that no run has measured", first, "my.yaml", made.tokens if made else 3
    )


def _unmeasured(what: str, first: str, recipe: str, tokens: int) -> RecipeError:
    from speculators.benchmark.card import sweeping

    return RecipeError(
        f"{what}; a card is made from a run that measured several settings",
        hint=f"{first}speculators run {recipe} {sweeping(tokens)}; then: speculators sweep runs/NAME/latest",
        rule="no-run",
    )


def require_unsealed(checkpoint: Path) -> None:
    """Leave what a run sealed as it is: changed, it could not be bundled or published any more.

    Raises:
        RecipeError: ``checkpoint`` is a run's own.
    """
    from speculators.pipeline.record import RECORD_NAME

    if (checkpoint.resolve().parent / RECORD_NAME).is_file():
        raise RecipeError(
            f"{checkpoint}: part of a finished run, whose files stay as they are",
            hint=f"copy it first: cp -r {shlex.quote(str(checkpoint))} my-draft, and write into that",
            rule="sealed",
        )


def is_checkpoint(folder: Path) -> bool:
    from speculators.checkpoint.config import CONFIG_NAME
    from speculators.documents import known_json

    return "speculators_config" in known_json(folder / CONFIG_NAME)


def written(package: Path, card: Mapping[str, Any]) -> Iterator[str]:
    """What ``--write`` did, and what nobody checked of it."""
    from speculators.benchmark.setting import SCHEDULE
    from speculators.checkpoint.config import CONFIG_NAME
    from speculators.checkpoint.setting import SETTING_NAME
    from speculators.report.card import CHECKED

    yield f"written into {package}: {CONFIG_NAME}, {SETTING_NAME}"
    if SCHEDULE in card["speculative_config"] and card["checked_by_vllm"] is None:
        yield f"note: {CHECKED[None]}"
