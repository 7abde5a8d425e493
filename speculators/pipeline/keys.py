"""What a stage's output depends on, as one digest and as the parts it is made of.

The parts are stored beside the digest: a later run explains itself by comparing them.  Paths,
times and host names never enter; comments, blank lines and docstrings of our own code do not
either.
"""

from __future__ import annotations

import ast
import importlib.metadata
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from speculators.documents import known_json, tree_digest, value_digest, write_json
from speculators.pipeline.file_facts import digest, prepared_digest
from speculators.pipeline.store import default_home
from speculators.recipe.view import PREPARED
from speculators.stages.table import Stage

KEY_SCHEMA = "speculators/key/v1"
PARSED = "parsed"
PACKAGE_ROOT = Path(__file__).resolve().parents[1]
#: Those that choose other kernels, and so other last bits, in the libraries that stages use.
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "sve", "bf16")


def key_parts(
    stage: Stage,
    values: dict[str, Any],
    inputs: dict[str, str],
    files: dict[str, list[Path]],
    sources: dict[str, str],
    environment: dict[str, str],
) -> dict[str, Any]:
    """Everything the output of ``stage`` depends on.

    Args:
        values: the recipe values the stage declares.
        inputs: digest of each input stage's output files, by stage name.
        files: the files the recipe names for this stage.
        sources: what names in the values stand for now: a branch's commit, a package's version.
        environment: what the stage runs in (``surroundings.py``).
    """
    return {
        "schema": KEY_SCHEMA,
        "stage": stage.name,
        "values": values,
        "inputs": inputs,
        "files": {name: [_contents(name, path) for path in paths] for name, paths in files.items()},
        "sources": sources,
        "environment": environment,
        "code": {name: module_digest(name) for name in imported_modules(stage.module)},
    }


def _contents(name: str, path: Path) -> str:
    """Digest of a file or folder that the recipe calls ``name``.

    The bytes of large files are read again only when a file has changed.
    """
    home = default_home()
    if name == PREPARED:
        return prepared_digest(path, home)
    return tree_digest(path, lambda file: digest(file, home))


def forget_code() -> None:
    """Read modules and packages anew: they may be changed while a stage runs for hours."""
    _code.cache_clear()
    _version.cache_clear()


def key_of(parts: dict[str, Any]) -> str:
    """The key itself: SHA-256 (hex) over the parts."""
    return value_digest(parts)


def environment(packages: tuple[str, ...]) -> dict[str, str]:
    """Interpreter, machine kind, instruction sets and the installed versions of ``packages``."""
    found = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "instructions": " ".join(instruction_sets()),
    }
    return found | {name: version for name in packages if (version := _version(name))}


@cache
def _version(distribution: str) -> str:
    """The installed version; empty when there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


@cache
def instruction_sets(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Those of ``INSTRUCTION_SETS`` that the processor has; empty where Linux does not say."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    has = set(flags.partition(":")[2].split())
    return tuple(name for name in INSTRUCTION_SETS if name in has)


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
            queue.extend(_code(name).imports)
    return sorted(found)


def module_digest(module: str) -> str:
    """SHA-256 (hex) of a module's syntax tree without docstrings."""
    return _code(module).digest


class Code(NamedTuple):
    """What a module's source says: the ``speculators`` modules it names, and its digest."""

    imports: tuple[str, ...]
    digest: str


@cache
def _code(module: str) -> Code:
    source = _source(module)
    if source is None:
        raise ModuleNotFoundError(module)
    named, digest_of_tree = _parsed(source.read_text(encoding="utf-8"))
    return Code(tuple(name for name in named if _source(name)), digest_of_tree)


@cache
def _own_text() -> str:
    """What is remembered of a source depends on how it was read."""
    return Path(__file__).read_text(encoding="utf-8")


def _parsed(text: str) -> tuple[list[str], str]:
    """The ``speculators`` modules that a source may name, and the digest of its tree.

    Remembered below the home by the text itself: parsing them all takes longer than all else of a plan.
    """
    memory = default_home() / PARSED / value_digest([_own_text(), platform.python_version(), text])[:40]
    known = known_json(memory)
    if known.keys() == {"named", "digest"}:
        return known["named"], known["digest"]
    tree = ast.parse(text)
    named: list[str] = []
    for node in ast.walk(tree):
        named += [name for name in _named(node) if name.startswith("speculators.")]
        _drop_docstring(node)
    # Python 3.13 dumps empty lists differently, but the interpreter is part of the key anyway.
    found = value_digest(ast.dump(tree))
    with suppress(OSError):  # a home that cannot be written costs time, nothing else
        write_json(memory, {"named": named, "digest": found})
    return named, found


def _named(node: ast.AST) -> list[str]:
    """Module names that a node may import."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    return []


def _drop_docstring(node: ast.AST) -> None:
    if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return
    first = node.body[0] if node.body else None
    value = first.value if isinstance(first, ast.Expr) else None
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        node.body = node.body[1:] or [ast.Pass()]


def _source(module: str) -> Path | None:
    path = PACKAGE_ROOT.joinpath(*module.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None
