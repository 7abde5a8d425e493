"""The documents of a finished run, read by who did not write them: a file may be cut off or emptied since."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from speculators.documents import read_json
from speculators.errors import RecipeError
from speculators.recipe.yaml_loader import load_yaml

Read = TypeVar("Read")


def text_of(path: Path) -> str:
    """The text of one of the run's files.

    Raises:
        RecipeError: it cannot be read, or is no UTF-8; as of the other functions here.
    """
    return _whole(path, lambda: path.read_text(encoding="utf-8"))


def json_of(path: Path) -> dict[str, Any]:
    """The object in one of the run's JSON files."""
    return _an_object(path, _whole(path, lambda: read_json(path)))


def yaml_of(path: Path) -> dict[str, Any]:
    """The mapping in one of the run's YAML files."""
    return _an_object(path, load_yaml(text_of(path), path.name).data)


def _an_object(path: Path, found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise _damaged(path, "it holds no keys")
    return found


def _whole(path: Path, read: Callable[[], Read]) -> Read:
    try:
        return read()
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> RecipeError:
    return RecipeError(
        f"{path}: damaged: {why}",
        hint="run the recipe again, which reuses what is stored, or take the run from a bundle",
        rule="damaged-run",
    )
