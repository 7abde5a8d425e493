"""What is wrong with a recipe: place, cause, way out.

Diagnostics are data, so that a terminal, a CI annotation and ``--json`` show the same facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from speculators.recipe.positions import ARGUMENT_PREFIX, Mark

Severity = Literal["error", "warning", "note"]


class Diagnostic(NamedTuple):
    """One problem.  ``line`` and ``col`` count from 1; ``rule`` is the short name to grep for.

    ``source`` is the line at fault; empty when no single line is (a missing block, say).
    """

    severity: Severity
    rule: str
    message: str
    file: str
    line: int = 1
    col: int = 1
    width: int = 1
    hint: str = ""
    notes: tuple[str, ...] = ()
    source: str = ""

    @property
    def place(self) -> str:
        if self.file.startswith(ARGUMENT_PREFIX):
            return f"{self.file}:{self.col}"
        return f"{self.file}:{self.line}:{self.col}"

    @property
    def order(self) -> tuple[bool, str, int, int, str]:
        """Sort key: by place, arguments after the file."""
        return (self.file.startswith(ARGUMENT_PREFIX), self.file, self.line, self.col, self.rule)


def diagnostic(
    severity: Severity, rule: str, message: str, mark: Mark, hint: str = "", notes: Sequence[str] = ()
) -> Diagnostic:
    """A diagnostic at ``mark``."""
    return Diagnostic(
        severity, rule, message, mark.file, mark.line, mark.col, mark.width, hint, tuple(notes), mark.source
    )


def ordered(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Sorted by place, exact repeats left out."""
    return tuple(sorted(dict.fromkeys(diagnostics), key=lambda item: item.order))


def has_errors(diagnostics: Iterable[Diagnostic]) -> bool:
    return any(item.severity == "error" for item in diagnostics)


def render(item: Diagnostic) -> str:
    """The diagnostic as text: headline, source line with caret, help, notes."""
    lines = [f"{item.place}: {item.severity}: {item.message} [{item.rule}]"]
    if item.source.strip():
        lines += _excerpt(item)
    if item.hint:
        lines.append(f"      = help: {item.hint}")
    lines += [f"      = note: {note}" for note in item.notes]
    return "\n".join(lines)


def render_all(diagnostics: Iterable[Diagnostic]) -> str:
    """All diagnostics as text, one after the other."""
    return "\n".join(render(item) for item in diagnostics)


def _excerpt(item: Diagnostic) -> list[str]:
    # Tabs and control characters are one column in the position, so they must be one on screen.
    shown = "".join(char if char.isprintable() else " " for char in item.source).rstrip()
    caret = " " * (item.col - 1) + "^" * max(1, min(item.width, len(shown) - item.col + 1))
    if item.file.startswith(ARGUMENT_PREFIX):
        return [f"      | {shown}", f"      | {caret}"]
    return ["      |", f"{item.line:>5} | {shown}", f"      | {caret}"]


def summary(diagnostics: Iterable[Diagnostic]) -> str:
    """``1 error, 2 warnings``; empty when there is nothing."""
    counts = {"error": 0, "warning": 0, "note": 0}
    for item in diagnostics:
        counts[item.severity] += 1
    return ", ".join(f"{n} {name}{'s' if n > 1 else ''}" for name, n in counts.items() if n)


def as_json(item: Diagnostic) -> dict[str, Any]:
    """The diagnostic for machines: every field but the source line."""
    document = item._asdict()
    del document["source"]
    document["notes"] = list(item.notes)
    return document
