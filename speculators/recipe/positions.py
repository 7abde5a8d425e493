"""Where every key and value of a recipe was written.

A diagnostic that says only which key is wrong makes people search; one with file, line and column
is a link in every editor.  Values set on the command line have a place as well: ``--set[1]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

#: The "file" of the n-th ``--set`` argument is ``--set[n]``: it has columns but no lines.
ARGUMENT_PREFIX = "--set["

#: Keys and list indices from the root of a recipe to a value; ``()`` is the recipe itself.
Path = tuple[str | int, ...]


class Mark(NamedTuple):
    """A stretch of one line.  ``line`` and ``col`` count from 1; ``source`` is the whole line."""

    file: str
    line: int = 1
    col: int = 1
    width: int = 1
    source: str = ""


class Positions(NamedTuple):
    """Marks of keys and of values by path."""

    file: str
    keys: Mapping[Path, Mark]
    values: Mapping[Path, Mark]

    def has(self, path: Path) -> bool:
        """Whether somebody wrote a value at ``path`` (as opposed to a default)."""
        return path in self.values

    def key(self, path: Path) -> Mark:
        """The key at ``path``; of a list item or an unwritten key, the nearest thing around it."""
        while path:
            if path in self.keys:
                return self.keys[path]
            if path in self.values:
                return self.values[path]
            path = path[:-1]
        return Mark(self.file)

    def value(self, path: Path) -> Mark:
        """The value at ``path``, or the key of the nearest block that was written."""
        return self.values[path] if path and path in self.values else self.key(path)

    def place(self, path: Path) -> str:
        """``file:line`` of the value at ``path``, or ``--set[n]``; empty where nobody wrote one."""
        if path not in self.values:
            return ""
        mark = self.values[path]
        return mark.file if mark.file.startswith(ARGUMENT_PREFIX) else f"{mark.file}:{mark.line}"

    def grafted(self, path: Path, other: Positions) -> Positions:
        """These positions after the value at ``path`` was replaced by the one that ``other`` describes."""
        depth = len(path)
        keys = {known: mark for known, mark in self.keys.items() if known[:depth] != path}
        values = {known: mark for known, mark in self.values.items() if known[:depth] != path}
        keys |= {path + below: mark for below, mark in other.keys.items()}
        values |= {path + below: mark for below, mark in other.values.items()}
        return Positions(self.file, keys, values)


def dotted(path: Path) -> str:
    """``("a", "b", 0)`` -> ``a.b[0]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def split_path(text: str) -> Path:
    """``a.b`` -> ``("a", "b")``."""
    return tuple(text.split("."))
