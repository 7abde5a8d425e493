"""``speculators schema``: the recipe's JSON Schema, for editors and readers."""

from __future__ import annotations

from typing import Annotated

import typer

FORMATS = ("json", "md")


def schema(
    form: Annotated[
        str, typer.Option("--format", metavar="json|md", help="For editors, or as a page for readers.")
    ] = "json",
) -> int:
    """Print the JSON Schema of recipes.

    It lists every key with its meaning, type and default.

    \b
    Examples:
      speculators schema > recipe.v1.json
      # and as the first line of a recipe, for completion in editors:
      # yaml-language-server: $schema=recipe.v1.json
      speculators schema --format md > recipe.md
    """
    if form not in FORMATS:
        raise typer.BadParameter(f"--format is '{form}': one of {', '.join(FORMATS)}")
    from speculators.recipe.reference import reference
    from speculators.recipe.schema import load_schema, schema_text

    typer.echo(schema_text() if form == "json" else reference(load_schema()), nl=False)
    return 0
