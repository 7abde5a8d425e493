"""``speculators schema``: the recipe's JSON Schema, for editors and readers."""

from __future__ import annotations

import typer


def schema() -> int:
    """Print the JSON Schema of recipes.

    It lists every key with its meaning, type and default.

    \b
    Examples:
      speculators schema > recipe.v1.json
      # and as the first line of a recipe, for completion in editors:
      # yaml-language-server: $schema=recipe.v1.json
    """
    from speculators.recipe.schema import schema_text

    typer.echo(schema_text(), nl=False)
    return 0
