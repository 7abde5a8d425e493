"""What this project has executed and what not, as reports show it: the table of ``docs/status.md``.

One table for readers of the documentation and of a report; it travels in the wheel, so that a report tells
of the version that wrote it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from speculators.recipe.schema import published

STATUS_FILE = "docs/status.md"
#: Cells end at a bar that is not escaped.
BAR = re.compile(r"(?<!\\)\|")


class Path(NamedTuple):
    """One thing that can be done with the project, and how far it was ever done."""

    path: str
    status: str
    how: str


def status() -> list[Path]:
    """The rows of the published table."""
    return parse(published(STATUS_FILE))


def parse(text: str) -> list[Path]:
    """The rows of the first table in a Markdown text, its head left out."""
    return [row(line) for line in text.splitlines() if line.startswith("|")][2:]


def row(line: str) -> Path:
    """One line of such a table."""
    return Path(*(_plain(cell) for cell in BAR.split(line.strip())[1:-1]))


def _plain(cell: str) -> str:
    """A cell without Markdown's code marks and links."""
    text = cell.strip().replace("\\|", "|")
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "")
