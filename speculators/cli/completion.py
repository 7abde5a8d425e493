"""``speculators completion``: what the shell needs to complete verbs, options, recipes, stages and values.

The shell calls the program back at each press of the key, so that it always completes what is there.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

PROGRAM = "speculators"
VARIABLE = "_SPECULATORS_COMPLETE"


class Shell(str, Enum):
    """The shells that there is a script for."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(help="The shell to write for.", show_default=False)],
) -> int:
    """Print the script that completes speculators' command line in a shell.

    \b
    Examples:
      speculators completion bash > ~/.local/share/bash-completion/completions/speculators
      speculators completion zsh > ~/.zfunc/_speculators
      speculators completion fish > ~/.config/fish/completions/speculators.fish
    """
    # typer's own way to it, --show-completion, would add options to every help page.
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # used, not re-exported

    typer.echo(get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell.value))
    return 0


def recipe_files(incomplete: str) -> list[str]:
    """Recipes, and folders that may hold some, whose path begins with ``incomplete``."""
    folder, _, start = incomplete.rpartition("/")
    place = Path(folder or ("/" if incomplete.startswith("/") else "."))
    head = incomplete[: len(incomplete) - len(start)]
    found = []
    for entry in sorted(place.iterdir()) if place.is_dir() else []:
        if not entry.name.startswith(start) or entry.name.startswith(".") > start.startswith("."):
            continue
        if entry.is_dir():
            found.append(f"{head}{entry.name}/")
        elif entry.name.endswith(".yaml") and not entry.name.endswith(".lock.yaml"):
            found.append(head + entry.name)
    return found


def known_recipes(incomplete: str) -> list[str]:
    """The same, and the names of recipes that come along."""
    from speculators.recipe.shipped import shipped_paths

    return [*(name for name in shipped_paths() if name.startswith(incomplete)), *recipe_files(incomplete)]


def stages(incomplete: str) -> list[str]:
    """The stages of any recipe."""
    from speculators.pipeline.plan import BENCHMARK
    from speculators.stages.table import BUILD_STAGES

    names = [*(stage.name for stage in BUILD_STAGES), BENCHMARK]
    return [name for name in names if name.startswith(incomplete)]


def settings(incomplete: str) -> list[str]:
    """``path=`` of every value a recipe can hold, and the values behind it where they are few."""
    from speculators.recipe.positions import dotted, split_path
    from speculators.recipe.schema import load_schema, schema_at, schema_paths

    schema = load_schema()
    name, equals, _ = incomplete.partition("=")
    if equals:
        at = schema_at(schema, split_path(name)) or {}
        choices = at.get("enum", ["true", "false"] if at.get("type") == "boolean" else [])
        return [one for choice in choices if (one := f"{name}={choice}").startswith(incomplete)]
    values = [path for path in schema_paths(schema) if "properties" not in (schema_at(schema, path) or {})]
    return [one for path in values if (one := f"{dotted(path)}=").startswith(incomplete)]
