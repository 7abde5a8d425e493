"""What must be true before the first stage starts, found out in seconds instead of after an hour."""

from __future__ import annotations

import importlib.util

from speculators.errors import MachineError
from speculators.recipe.diagnostics import has_errors
from speculators.recipe.engine_probe import engine_diagnostics
from speculators.recipe.recipe import InvalidRecipeError, Recipe

#: module -> the extra that brings it
NEEDED_MODULES = {
    "torch": "train",
    "transformers": "train",
    "safetensors": "train",
    "vllm": "datagen",
    "guidellm": "bench",
}


def check_environment() -> None:
    """Stop when this environment cannot run the stages.

    Raises:
        MachineError: naming every missing package at once.
    """
    missing = {name: extra for name, extra in NEEDED_MODULES.items() if not importlib.util.find_spec(name)}
    if missing:
        raise MachineError(
            f"this environment lacks {', '.join(missing)}",
            hint="set up the CPU engine with `make setup-local`, or on a CUDA machine: "
            f"pip install 'speculators[{','.join(sorted({*missing.values(), 'cuda'}))}]'",
            rule="missing-package",
        )


def check_engine_arguments(recipe: Recipe) -> None:
    """Stop when the installed vLLM's own parser refuses the recipe's ``engine.args``.

    Raises:
        InvalidRecipeError: naming every argument at its place in the recipe.
    """
    found = engine_diagnostics(recipe.data["engine"]["args"], recipe.positions)
    if has_errors(found):
        raise InvalidRecipeError(found)


def check_draft(recipe: Recipe) -> None:
    """Stop when the draft on the hub that the recipe brings was not fetched yet.

    Raises:
        MachineError: naming the command that fetches it.
    """
    if recipe.hub_draft and "draft" not in recipe.files():
        repository, revision = recipe.hub_draft
        raise MachineError(
            f"draft {repository}@{revision} is not in the local Hugging Face cache",
            hint=f"stages run offline; fetch it with: hf download {repository} --revision {revision}",
            rule="not-fetched",
        )
