"""Looking at Python code without running it: where a name is, what it takes, what it says."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class GoneError(Exception):
    """A name is not where we use it."""


def resolve(name: str) -> Any:
    """The object called ``package.module:Class.attribute``.

    Raises:
        GoneError: it is not there; the message says where its definition is now, if anywhere.
    """
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise GoneError(f"{name}: {error}{_now(path, module)}") from error
    except Exception as error:
        raise GoneError(f"{name}: its module fails: {type(error).__name__}: {error}") from error
    for part in path.split(".") if path else ():
        try:
            found = inspect.getattr_static(found, part)
        except AttributeError as error:
            raise GoneError(f"{name} is gone{_now(path, module)}") from error
    return found


def _now(path: str, module: str) -> str:
    places = [place for place in definitions(path.split(".")[0]) if place != module] if path else []
    return f"; defined in {', '.join(places)}" if places else ""


def definitions(name: str) -> list[str]:
    """The modules of vLLM that define a class or function ``name`` at top level."""
    pattern = re.compile(rf"^(?:class|def|async def) {re.escape(name)}\b", re.MULTILINE)
    return sorted(
        ".".join(path.relative_to(package().parent).with_suffix("").parts)
        for path in sources("")
        if pattern.search(path.read_text(encoding="utf-8"))
    )


def sources(folder: str) -> Iterator[Path]:
    """vLLM's Python files below ``folder``."""
    return (package() / folder).rglob("*.py")


def package() -> Path:
    """Where the vLLM that is asked lies."""
    return Path(importlib.import_module("vllm").__file__ or "").parent


def signature(function: Any) -> list[str]:
    """The parameters with defaults and kinds, without annotations."""
    kinds = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}
    shown = []
    for parameter in inspect.signature(_plain(function)).parameters.values():
        default = "" if parameter.default is inspect.Parameter.empty else f"={_default(parameter.default)}"
        keyword = " (by name only)" if parameter.kind is inspect.Parameter.KEYWORD_ONLY else ""
        shown.append(f"{kinds.get(parameter.kind.name, '')}{parameter.name}{default}{keyword}")
    return shown


def takes(function: Any, positional: int, keywords: tuple[str, ...]) -> str:
    """Why a call with so many positional arguments and these keywords fails; empty if it does not.

    ``positional`` does not count the object or class of a method.
    """
    if isinstance(function, classmethod) or (inspect.isfunction(function) and "." in function.__qualname__):
        positional += 1
    try:
        inspect.signature(_plain(function)).bind(*range(positional), **dict.fromkeys(keywords))
    except TypeError as error:
        return str(error)
    return ""


def names_of(cls: type) -> set[str]:
    """All attributes an object of ``cls`` can have: defined, annotated, or assigned to ``self``."""
    found = set(dir(cls))
    for base in cls.__mro__[:-1]:
        found |= set(vars(base).get("__annotations__", {}))
        found |= _assigned(base)
    return found


def literals(thing: Any) -> set[str]:
    """The texts written in the code of ``thing``."""
    tree = _tree(thing)
    return {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def code_digest(name: str) -> str:
    """A short digest of the code called ``name``: comments, docstrings and layout left out.

    Raises:
        GoneError: it is not there, or a decorator has put other code in its place.
    """
    thing, module = resolve(name), importlib.import_module(name.partition(":")[0])
    if inspect.getsourcefile(inspect.unwrap(_plain(thing))) != inspect.getsourcefile(module):
        raise GoneError(f"{name}: its code is in another file")
    tree = _tree(thing)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:12]


def _plain(function: Any) -> Any:
    """The function behind a static or class method."""
    return getattr(function, "__func__", function)


def _default(value: Any) -> str:
    return repr(value) if isinstance(value, str | int | float | bool | None | tuple | list | dict) else "..."


def _assigned(cls: type) -> set[str]:
    try:
        tree = _tree(cls)
    except (OSError, TypeError):  # built in, or made at run time
        return set()
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def _tree(thing: Any) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(_plain(thing)))))
