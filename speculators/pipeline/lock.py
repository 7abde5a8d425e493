"""The lock: what the names in a recipe stood for, by digest, one pin a line.

A recipe says what is wanted, its lock says which bytes that was: models, prompts, images, package
versions.  It holds inputs only, never results, and is made by a machine, so that a changed line in it is
a changed input.

Pure: text in, text out.  ``lock_changes.py`` compares a lock with what is there now, ``pins.py`` looks at the
disk, ``locking.py`` at the file beside the recipe.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from speculators.errors import RecipeError
from speculators.recipe.diagnostics import Diagnostic, diagnostic, ordered, render_all
from speculators.recipe.positions import Path, Positions, dotted
from speculators.recipe.schema import published
from speculators.recipe.yaml_loader import load_yaml
from speculators.recipe.yaml_scalars import is_plain_string

if TYPE_CHECKING:
    from jsonschema import ValidationError

LOCK_SCHEMA = "speculators/lock/v1"
SCHEMA_FILE = "schemas/lock.v1.json"
HEADER = """\
# Made by `speculators lock`: what the recipe beside this file stands for.  Not for editing:
# `speculators lock RECIPE` writes it anew, and with `--update PATH` only the part below PATH.
"""

Pin = str | int
IMAGES = "images"
NAME: Path = ("name",)
RECIPE_DIGEST: Path = ("recipe",)
#: A lock without it is no staler for that: one that is committed beside a checkout's recipe cannot name
#: the digest of sources that change with every commit.
TOOL_DIGEST: Path = ("tool", "sha256")

PLAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_./@+:-]*[A-Za-z0-9_/@+-])?")


def within(path: Path, blocks: Iterable[Path]) -> bool:
    """Whether ``path`` is one of ``blocks`` or below one."""
    return any(path[: len(block)] == block for block in blocks)


class ImagePin(NamedTuple):
    """What the image of a role is: where it comes from, its digest, and what is installed in it.

    ``tested``: whether this project was tried in it.
    """

    role: str
    reference: str
    digest: str
    platform: str
    packages: Mapping[str, str]
    tested: bool = True


class Unseen(NamedTuple):
    """Why pins could not be looked at.  ``mend``: the way out; where there is one, no lock is written."""

    reason: str
    mend: str = ""


class Pins(NamedTuple):
    """What a recipe stands for now, by path into the lock.

    ``unseen``: blocks that could not be looked at.  ``elsewhere``: blocks that only the other executor
    uses or sees.  A lock may have more to say in both.  ``checkout``: the tool runs from sources under
    development.
    """

    values: Mapping[Path, Pin]
    unseen: Mapping[Path, Unseen] = MappingProxyType({})
    elsewhere: frozenset[Path] = frozenset()
    checkout: bool = False

    def hides(self, path: Path) -> bool:
        """Whether ``path`` may be pinned though nothing was found there."""
        return within(path, (*self.unseen, *self.elsewhere))

    def to_commit(self) -> dict[Path, Pin]:
        """What belongs into a file beside the recipe."""
        return {path: pin for path, pin in self.values.items() if not (self.checkout and path == TOOL_DIGEST)}


class Lock(NamedTuple):
    """A lock as it was read: its pins, and where in the file they stand."""

    pins: Mapping[Path, Pin]
    positions: Positions


class InvalidLockError(RecipeError):
    """A file that is no lock, or none of this version; the message is all of its diagnostics."""

    rule = "invalid-lock"

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        super().__init__(
            f"{diagnostics[0].file} cannot be read as a lock\n{render_all(diagnostics)}",
            hint="no hand need mend it, after a merge neither: write it anew with: speculators lock RECIPE",
        )
        self.diagnostics = tuple(diagnostics)


def render(pins: Mapping[Path, Pin]) -> str:
    """The lock's text: a header, then one pin a line in the order of their names."""
    tree: dict[str, Any] = {}
    for path, pin in pins.items():
        *blocks, last = path
        block = tree
        for name in blocks:
            block = block.setdefault(str(name), {})
        block[str(last)] = pin
    return f"{HEADER}schema: {LOCK_SCHEMA}\n" + "".join(f"{line}\n" for line in _lines(tree))


def _lines(block: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for name in sorted(block):
        value = block[name]
        if isinstance(value, dict):
            yield f"{indent}{_scalar(name)}:"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{_scalar(name)}: {_scalar(value)}"


def _scalar(value: Pin) -> str:
    """``value`` on one line, read the same by YAML 1.1 and 1.2."""
    if isinstance(value, int):
        return str(value)
    if PLAIN.fullmatch(value) and is_plain_string(value) and _is_string_in_1_1(value):
        return value
    quoted: str = yaml.dump(value, default_style='"', allow_unicode=True, width=float("inf"))
    return quoted.strip()


def _is_string_in_1_1(word: str) -> bool:
    resolver: Any = yaml.resolver.Resolver()
    return bool(resolver.resolve(yaml.ScalarNode, word, (True, False)) == resolver.DEFAULT_SCALAR_TAG)


def parse(text: str, file: str) -> Lock:
    """The lock in ``text``; ``file`` is the name that errors carry.

    Raises:
        InvalidLockError: with every fault at its place.
    """
    document = load_yaml(text, file)
    found = list(document.diagnostics)
    if not found:
        found += _faults(document.data, document.positions)
    if found:
        raise InvalidLockError(ordered(found))
    pins = {path: pin for path, pin in _leaves(document.data) if path != ("schema",)}
    return Lock(pins, document.positions)


def locked_image_pins(lock: Lock | None) -> dict[str, ImagePin]:
    """The image of each role in a lock; empty without one."""
    blocks: dict[str, dict[str, Any]] = {}
    for path, pin in lock.pins.items() if lock else ():
        if path[0] == IMAGES:
            block = blocks.setdefault(str(path[1]), {"packages": {}})
            if path[2] == "packages":
                block["packages"][str(path[3])] = str(pin)
            else:
                block[str(path[2])] = str(pin)
    return {role: ImagePin(role, **block) for role, block in blocks.items()}


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Pin]]:
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _leaves(child, (*path, name))
    else:
        yield path, value


@cache
def schema() -> dict[str, Any]:
    """The lock's JSON Schema.  Shared: do not change it."""
    parsed: dict[str, Any] = json.loads(published(SCHEMA_FILE))
    return parsed


@cache
def _validator() -> Any:
    from jsonschema import Draft7Validator

    return Draft7Validator(schema())


def _faults(data: Any, positions: Positions) -> Iterator[Diagnostic]:
    version = data.get("schema") if isinstance(data, dict) else None
    if version not in (None, LOCK_SCHEMA):
        message = f"this version of speculators reads '{LOCK_SCHEMA}', not '{version}'"
        hint = "the version of speculators that made this lock reads it"
        yield diagnostic("error", "schema-version", message, positions.value(("schema",)), hint)
        return  # all else would be a consequence
    for error in _validator().iter_errors(data):
        yield from _explain(error, positions)


def _explain(error: ValidationError, positions: Positions) -> Iterator[Diagnostic]:
    path = tuple(error.absolute_path)
    where = dotted(path) or "the lock"
    found: Any = error.instance
    rules: Any = error.schema
    if error.validator == "additionalProperties":
        for key in [key for key in found if key not in rules["properties"]]:
            mark = positions.key((*path, key))
            yield diagnostic("error", "unknown-key", f"unknown key '{key}' in {where}", mark)
    elif error.validator == "required":
        for name in [name for name in rules["required"] if name not in found]:
            yield diagnostic("error", "missing-key", f"{where} lacks the key '{name}'", positions.key(path))
    else:
        text = json.dumps(found, ensure_ascii=False)
        text = text if len(text) <= 60 else text[:57] + "..."
        wanted = rules.get("description", "a lock").rstrip(".")
        message = f"{where} is {text}, but must be: {wanted[0].lower()}{wanted[1:]}"
        yield diagnostic("error", "bad-value", message, positions.value(path))
