"""``extends: ./base.yaml``: a recipe that says only what differs from another one.

One parent, the child wins, blocks merge, everything else replaces: no templates, no deletion, no way to
append, because a reader must be able to tell the result from two files side by side.  What is left after
merging is plain data without ``extends``; every value keeps the file and line it was written in.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from speculators.recipe.diagnostics import diagnostic
from speculators.recipe.hub_cache import hub_file
from speculators.recipe.positions import Path as KeyPath
from speculators.recipe.positions import Positions
from speculators.recipe.prompt_source import BENCHMARK_FILES, prompt_source
from speculators.recipe.source_rules import REPOSITORY_AT
from speculators.recipe.view import FILES, named
from speculators.recipe.yaml_loader import Document, load_yaml

EXTENDS: KeyPath = ("extends",)
#: Parents above a recipe: who would have to read more files than this does not see what runs.
DEEPEST = 3
ROOT: KeyPath = ()

Value = TypeVar("Value")


class Source(NamedTuple):
    """A recipe's file and its text as given."""

    path: Path
    text: str


class Family(NamedTuple):
    """A recipe merged with what it extends; ``sources`` are its own file and its parents', nearest first."""

    document: Document
    sources: tuple[Source, ...]


class UnusableError(Exception):
    """A file cannot be read, or not as a parent; the message says why, ``hint`` the way out as a parent."""

    def __init__(self, message: str, hint: str = "give another recipe's file, relative to this one") -> None:
        super().__init__(message)
        self.hint = hint


def read_source(path: Path) -> Source:
    """The text of a recipe's file.

    Raises:
        UnusableError: there is none, or it is no text.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UnusableError("not a regular file")  # a pipe that nobody writes to, a device without end
    try:
        return Source(path, path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        reason = f"the file is not UTF-8 text ({error.reason} at byte {error.start})"
        raise UnusableError(reason) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UnusableError(getattr(error, "strerror", None) or str(error)) from error


def load_family(source: Source, below: tuple[Path, ...] = ()) -> Family:
    """The recipe in ``source`` merged with its parents.  Never raises for what a user wrote.

    When a parent cannot be used, that is the one error: the root of ``document`` is spoiled.
    ``below``: the recipes that extend this one, resolved.
    """
    child = load_yaml(source.text, str(source.path))
    name = named(child.data, "extends")
    if not isinstance(name, str) or not name:
        return Family(child, (source,))  # it has no parent, or one that the schema refuses
    own = child._replace(data={key: value for key, value in child.data.items() if key != "extends"})
    path = Path(os.path.normpath(source.path.parent / name))
    chain = (*below, source.path.resolve())
    try:
        parent = load_family(_parent_source(path, chain), chain)
        if not isinstance(parent.document.data, dict) and ROOT not in parent.document.spoiled:
            raise UnusableError("it holds no block of keys")
    except UnusableError as error:
        message = f"cannot extend '{name}': {error}"
        problem = diagnostic("error", "extends", message, child.positions.value(EXTENDS), error.hint)
        spoiled = child.spoiled | {ROOT}
        return Family(own._replace(diagnostics=(*child.diagnostics, problem), spoiled=spoiled), (source,))
    rebased = _rebased(parent.document.data, path.parent, source.path.parent)
    return Family(merged(parent.document._replace(data=rebased), own), (source, *parent.sources))


def _parent_source(path: Path, chain: tuple[Path, ...]) -> Source:
    if path.resolve() in chain:
        raise UnusableError("it extends this recipe itself")
    if len(chain) > DEEPEST:
        message = f"recipes extend one another at most {DEEPEST} deep"
        raise UnusableError(message, "write two of them into one file")
    return read_source(path)


def merged(parent: Document, child: Document) -> Document:
    """``child`` over ``parent``: blocks are merged key by key, any other value replaces the parent's."""
    replaced = set(_replaced(parent.data, child.data))
    unread = parent.spoiled & {ROOT}  # nothing can be said of what the parent did not say
    positions = Positions(
        child.positions.file,
        {**_kept(parent.positions.keys, replaced), **child.positions.keys},
        {**_kept(parent.positions.values, replaced), **child.positions.values},
    )
    return Document(
        _over(parent.data, child.data),
        positions,
        (*parent.diagnostics, *child.diagnostics),
        frozenset(_kept(dict.fromkeys(parent.spoiled), replaced)) | child.spoiled | unread,
    )


def _over(parent: Any, child: Any) -> Any:
    if not isinstance(parent, dict) or not isinstance(child, dict):
        return child
    return {**parent, **{key: _over(parent.get(key), value) for key, value in child.items()}}


def _replaced(parent: Any, child: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """The paths at which the parent's value is gone."""
    if isinstance(parent, dict) and isinstance(child, dict):
        for key in parent.keys() & child.keys():
            yield from _replaced(parent[key], child[key], (*path, key))
    else:
        yield path


def _kept(marks: Mapping[KeyPath, Value], replaced: set[KeyPath]) -> dict[KeyPath, Value]:
    """Of ``marks`` those that lie neither at a replaced path nor below one."""
    return {
        path: mark
        for path, mark in marks.items()
        if not any(path[:end] in replaced for end in range(len(path) + 1))
    }


def _rebased(data: Any, was: Path, now: Path) -> Any:
    """``data`` with the names of its files relative to folder ``now`` instead of ``was``."""
    if was.resolve() == now.resolve():
        return data
    data = copy.deepcopy(data)
    for path in FILES:
        parents, _, last = path.rpartition(".")
        block = named(data, parents) if parents else data
        if isinstance(block, dict) and last in block:
            names = block[last]
            move = _moved_prompts if path == BENCHMARK_FILES else _moved
            moved = [move(name, was, now) for name in (names if isinstance(names, list) else [names])]
            block[last] = moved if isinstance(names, list) else moved[0]
    return data


def _moved_prompts(name: Any, was: Path, now: Path) -> Any:
    """As ``_moved``; the name of a public set, or random text, is no file name either."""
    source = prompt_source(name) if isinstance(name, str) else None
    if source is None or not isinstance(source.file, str):
        return name
    return source.named(_moved(source.file, was, now))


def _moved(name: Any, was: Path, now: Path) -> Any:
    """A file's name as folder ``now`` has it; what is no relative file name stays as it is."""
    if not isinstance(name, str) or not name or os.path.isabs(name):
        return name
    if REPOSITORY_AT.fullmatch(name) and not os.path.exists(was / name):
        return name  # a draft on the hub
    if hub_file(name):
        return name
    return os.path.relpath(os.path.abspath(was / name), os.path.abspath(now))
