"""What a stage's output depends on, as one digest and as the parts it is made of.

The parts are stored beside the digest: a later run explains itself by comparing them.  Paths,
times and host names never enter; comments, blank lines and docstrings of our own code do not
either.
"""

from __future__ import annotations

import ast
import importlib.metadata
import platform
from functools import cache
from pathlib import Path
from typing import Any

from speculators.documents import tree_digest, value_digest
from speculators.stages.table import Stage

KEY_SCHEMA = "speculators/key/v1"
PACKAGE_ROOT = Path(__file__).resolve().parents[1]


def key_parts(
    stage: Stage,
    values: dict[str, Any],
    inputs: dict[str, str],
    files: dict[str, list[Path]],
    sources: dict[str, str],
) -> dict[str, Any]:
    """Everything the output of ``stage`` depends on.

    Args:
        values: the recipe values the stage declares.
        inputs: digest of each input stage's output files, by stage name.
        files: the files the recipe names for this stage.
        sources: what names in the values stand for now: a branch's commit, a package's version.
    """
    return {
        "schema": KEY_SCHEMA,
        "stage": stage.name,
        "values": values,
        "inputs": inputs,
        "files": {name: [tree_digest(path) for path in paths] for name, paths in files.items()},
        "sources": sources,
        "environment": environment(stage.packages),
        "code": {name: module_digest(name) for name in imported_modules(stage.module)},
    }


def key_of(parts: dict[str, Any]) -> str:
    """The key itself: SHA-256 (hex) over the parts."""
    return value_digest(parts)


def environment(packages: tuple[str, ...]) -> dict[str, str]:
    """Interpreter, machine kind and the installed versions of ``packages``."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def imported_modules(module: str) -> list[str]:
    """``module`` and every ``speculators`` module it names, directly or not, by reading source.

    Reading beats declaring: a declaration can forget a module.  Names in strings count too, because
    an engine loads a connector by its name.
    """
    found: set[str] = set()
    queue = [module]
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            queue.extend(_direct_imports(name))
    return sorted(found)


@cache
def _direct_imports(module: str) -> tuple[str, ...]:
    candidates: list[str] = []
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            candidates += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            candidates += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            candidates.append(node.value)
    return tuple(name for name in candidates if name.startswith("speculators.") and _source(name))


def _source(module: str) -> Path | None:
    path = PACKAGE_ROOT.joinpath(*module.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def _tree(module: str) -> ast.Module:
    source = _source(module)
    if source is None:
        raise ModuleNotFoundError(module)
    return ast.parse(source.read_text(encoding="utf-8"))


@cache
def module_digest(module: str) -> str:
    """SHA-256 (hex) of a module's syntax tree without docstrings."""
    tree = ast.parse(ast.unparse(_tree(module)))
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return value_digest(ast.dump(tree))
