"""``speculators run BUNDLE``: a published run once more, and what came of it."""

from __future__ import annotations

import json

import typer

from speculators.cli.asked import Asked, perform
from speculators.cli.options import load
from speculators.errors import EXIT_INTERRUPTED, RecipeError


def repeat(asked: Asked, *, as_json: bool) -> int:
    """Verify and unpack the bundle, make everything in it anew, and print how the two runs compare.

    The exit code says it too.

    Raises:
        BadParameter: a part of the bundle was asked for; only a whole run can be judged.
        SpeculatorsError: the bundle is none, or damaged, or its run did not get to the end.
    """
    parts = {"--only": asked.only, "--from": asked.start, "--accept": asked.accept}
    parts |= {"--against": asked.against, "--aa": "asked" if asked.itself else ""}
    if given := [name for name, value in parts.items() if value]:
        hint = "a bundle is repeated as a whole, for its verdict"
        raise typer.BadParameter(f"{', '.join(given)}: {hint}; for a part of it run its recipe")
    from speculators.bundle.homes import REPEATS, leave
    from speculators.bundle.repeat import conclude, prepare

    prepared = prepare(
        asked.source,
        asked.runs_dir / REPEATS,
        asked.overrides,
        trusted=asked.trusted,
        locked=asked.locked,
    )
    recipe = load(prepared.recipe, asked.overrides)
    if recipe is None:
        return RecipeError.exit_code
    try:
        record = perform(recipe, asked, prepared.home)
    except RecipeError as error:
        error.hint = prepared.way_on(error)
        raise
    if record is None:
        return EXIT_INTERRUPTED
    leave(prepared.home)
    verdict = conclude(prepared.published, asked.runs_dir / recipe.name / record["id"])
    typer.echo(json.dumps(verdict.document(), indent=2, ensure_ascii=False) if as_json else verdict.text())
    return verdict.exit_code(strict=asked.strict)
