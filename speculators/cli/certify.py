"""``speculators certify``: does this machine compute what this project says it does?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speculators.cli.options import (
    AllowUntested,
    ExecutorName,
    ImageOverrides,
    load,
    overrides_of,
    wanted_of,
)

if TYPE_CHECKING:
    from speculators.pipeline.certificate import Ground
    from speculators.recipe.recipe import Recipe

EXIT_MISMATCH = 1
OptionalRecipe = Annotated[
    Path | None,
    typer.Argument(
        metavar="[RECIPE]",
        help="A recipe whose executor, images and GPUs are asked, instead of this environment.",
        show_default=False,
    ),
]


def certify(
    recipe: OptionalRecipe = None,
    device: Annotated[
        str, typer.Option("--device", metavar="auto|cpu|cuda", help="What is asked; auto prefers a GPU.")
    ] = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="Ask again, whatever was found before.")] = False,
    executor: ExecutorName = "",
    images: ImageOverrides = None,
    allow_untested: AllowUntested = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    """Check that this machine's devices compute right, in less than two minutes.

    The fast trainer against its oracle, several ranks against one, captured layers against transformers, the
    engine's tokens against its states. Small random models; nothing is downloaded. What was found is kept for
    these GPUs, driver, packages and code, and the first run on a new GPU asks by itself. Ends with a row
    for the status table. Exit code 1 when something does not hold.

    \b
    Examples:
      speculators certify
      speculators certify --device cpu
      speculators certify my.yaml --executor docker
    """
    from speculators.documents import known_json
    from speculators.pipeline.certificate import (
        DEVICES,
        PARTS,
        certificate,
        mismatches,
        status_row,
        time_left,
    )
    from speculators.serving.environment import has_cpu_engine
    from speculators.serving.launcher import has_engine

    if device not in DEVICES:
        raise typer.BadParameter(f"--device {device}: one of {', '.join(DEVICES)}")
    loaded = load(recipe, overrides_of(None, executor)) if recipe else None
    if recipe and loaded is None:
        return 2
    ground, inside = _ground(loaded, images, allow_untested)
    # An engine built for GPUs computes on nothing else.
    has = inside or (has_engine() and (device != "cpu" or has_cpu_engine()))
    wanted = PARTS if has else {"trainer": PARTS["trainer"]}
    found: dict[str, Any] = {}
    left = time_left()
    for name, stage in wanted.items():
        found[name] = known_json(certificate(ground, stage, device, fresh=fresh, seconds=left()))
    row = status_row(found)
    failed = [line for document in found.values() for line in mismatches(document["result"])]
    if as_json:
        typer.echo(json.dumps({"ok": not failed, "parts": found, "row": row}, indent=2, ensure_ascii=False))
    else:
        _show(found, row)
    if wanted is not PARTS:
        typer.echo("the engine was not asked: there is no vLLM here for that device", err=True)
    return EXIT_MISMATCH if failed else 0


def _ground(recipe: Recipe | None, images: list[str] | None, untested: bool) -> tuple[Ground, bool]:
    """Where the questions are asked, and whether that is in containers."""
    import os

    from speculators.executors.local import LocalExecutor
    from speculators.pipeline.certificate import Ground, kernels
    from speculators.pipeline.store import default_home
    from speculators.pipeline.surroundings import HERE, given

    def say(line: str) -> None:
        typer.echo(line, err=True)

    wanted, home = wanted_of(images, untested), default_home()
    if recipe is not None and recipe.data["executor"] == "docker":
        from speculators.pipeline.containers import containers

        made = containers(recipe, wanted.images, untested, None, home, say)
        return Ground(made.executor, made.where, home, say, kernels(recipe)), True
    if recipe is not None:
        return Ground(LocalExecutor(), given(recipe, os.environ), home, say, kernels(recipe)), False
    return Ground(LocalExecutor(), HERE, home, say), False


def _show(found: dict[str, Any], row: str) -> None:
    from speculators.pipeline.certificate import figure

    for document in found.values():
        for check in document["result"]["checks"]:
            mark = "ok" if check["ok"] else "--"
            told = check["cause"] or f"{figure(check['error'])}, at most {check['bound']:.2g}"
            typer.echo(f"{mark}  {check['name']}: {told}")
        for skipped in document["result"]["not_checked"]:
            typer.echo(f"?   {skipped}")
    typer.echo(f"\n{row}")
