"""``speculators run BUNDLE``: a published run once more, and what came of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from speculators.cli.options import load
from speculators.errors import EXIT_INTERRUPTED, RecipeError

if TYPE_CHECKING:
    from speculators.cli.asked import Asked


def repeat(asked: Asked, *, as_json: bool) -> int:
    """Verify and unpack the bundle, make everything in it anew, and print how the two runs compare.

    The exit code says it too.

    Raises:
        BadParameter: a part of the bundle was asked for; only a whole run can be judged.
        SpeculatorsError: the bundle is none, or damaged, or its run did not get to the end.
    """
    parts = {"--only": asked.only, "--from": asked.start, "--accept": asked.accept}
    if given := [name for name, value in parts.items() if value]:
        hint = "a bundle is repeated as a whole, for its verdict"
        raise typer.BadParameter(f"{', '.join(given)}: {hint}; for a part of it run its recipe")
    from speculators.bundle.homes import REPEATS, leave
    from speculators.bundle.repeat import conclude, prepare

    published = prepare(
        asked.source,
        asked.runs_dir / REPEATS,
        asked.overrides,
        trusted=asked.trusted,
        locked=asked.locked,
    )
    recipe = load(published.recipe, asked.overrides)
    if recipe is None:
        return RecipeError.exit_code
    from speculators.cli.asked import perform

    try:
        record = perform(recipe, asked, published.home)
    except RecipeError as error:
        error.hint = published.way_on(error)
        raise
    if record is None:
        return EXIT_INTERRUPTED
    leave(published.home)
    verdict = conclude(published.published, asked.runs_dir / recipe.name / record["id"])
    typer.echo(json.dumps(verdict.document(), indent=2, ensure_ascii=False) if as_json else verdict.text())
    return verdict.exit_code(strict=asked.strict)
