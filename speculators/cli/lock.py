"""``speculators lock``: pin what a recipe stands for, or tell whether that still holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speculators.cli.options import (
    AllowUntested,
    ExecutorName,
    ImageOverrides,
    Overrides,
    RecipePath,
    load,
    overrides_of,
    wanted_of,
)
from speculators.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from speculators.pipeline.lock import Pins
    from speculators.pipeline.lock_changes import Difference

REPORT_SCHEMA = "speculators/lock-report/v1"


def lock(
    recipe: RecipePath,
    overrides: Overrides = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 2 when the lock is stale or absent.")
    ] = False,
    update: Annotated[
        list[str] | None,
        typer.Option(
            "--update",
            metavar="PATH",
            help="Renew only the pins at or below PATH, as in models.verifier. Repeatable.",
            show_default=False,
        ),
    ] = None,
    executor: ExecutorName = "",
    images: ImageOverrides = None,
    allow_untested: AllowUntested = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    """Pin the recipe's models, prompts, packages and images in a lock beside it.

    The lock of my.yaml is my.lock.yaml: commit both. No GPU is needed, and a container engine only to pin
    images.

    \b
    Examples:
      speculators lock my.yaml
      speculators lock my.yaml --check
      speculators lock my.yaml --update models.verifier --update prompts
      speculators lock my.yaml --executor docker
    """
    if check and update:
        raise typer.BadParameter("--check writes nothing, --update does: give one of them")
    loaded = load(recipe, overrides_of(overrides, executor))
    if loaded is None:
        return 2
    from speculators.pipeline import locking
    from speculators.pipeline.pins import gather
    from speculators.pipeline.premises import pins_to_lock
    from speculators.pipeline.store import default_home

    path, home = locking.lock_path(recipe), default_home()
    try:
        wanted = wanted_of(images, allow_untested)
        pins = pins_to_lock(loaded, wanted, home, lambda line: typer.echo(line, err=True), fetch=not check)
    except MachineError:
        if not check:  # what is to be pinned must be seen; what is compared is compared as far as it is
            raise
        pins = gather(loaded, home)
    notes = _unseen(pins)
    if check:
        stale = locking.check(loaded, path, pins)
        way_on = f"renew them with: {locking.command(loaded, stale)}" if stale else ""
        _show(path, _stale_lines(path, stale, way_on), not stale, stale, notes, as_json)
        return 2 if stale else 0
    done = locking.renew(loaded, path, pins, update or [])
    if done.stale:
        notes.append(f"still stale: {', '.join(one.name for one in done.stale)}")
    _show(
        path,
        _renewal_lines(path, done.changed, done.pins, done.written),
        not done.stale,
        done.changed,
        [*notes, *done.notes],
        as_json,
    )
    return 0


def _unseen(pins: Pins) -> list[str]:
    """What could not be looked at, so that nobody takes it for compared."""
    from speculators.recipe.positions import dotted

    return [f"not compared: {dotted(path)} ({unseen.reason})" for path, unseen in pins.unseen.items()]


def _stale_lines(path: Path, stale: list[Difference], way_on: str) -> list[str]:
    if not stale:
        return [f"{path}: ok"]
    return [f"{one.line} [stale-pin]" for one in stale] + [f"      = help: {way_on}"]


def _renewal_lines(path: Path, changed: list[Difference], pins: int, written: bool) -> list[str]:
    if not written:
        return [f"{path}: up to date, {pins} pins"]
    return [f"{path}: written, {pins} pins", *(f"  {_sign(one)} {one.text}" for one in changed)]


def _sign(one: Difference) -> str:
    return "+" if one.was is None else "-" if one.now is None else "~"


def _show(
    path: Path,
    lines: Iterable[str],
    ok: bool,
    differences: list[Difference],
    notes: list[str],
    as_json: bool,
) -> None:
    if not as_json:
        typer.echo("\n".join(lines))
        for note in notes:
            typer.echo(f"note: {note}", err=True)
        return
    document = {
        "schema": REPORT_SCHEMA,
        "file": str(path),
        "ok": ok,
        "differences": [_as_json(one) for one in differences],
        "notes": notes,
    }
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def _as_json(one: Difference) -> dict[str, Any]:
    return {
        "pin": one.name,
        "kind": one.kind,
        "was": one.was,
        "now": one.now,
        "line": one.mark.line,
        "col": one.mark.col,
    }
