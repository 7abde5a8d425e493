"""What must be true before the first stage starts, found out in seconds instead of after an hour."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path

from speculators.errors import MachineError, RecipeError
from speculators.executors.base import Executor, Step
from speculators.recipe.recipe import Recipe

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
