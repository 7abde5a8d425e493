"""What GitHub Actions shows: annotations at a job or at a recipe's lines, and a page on the job's summary.

All are plain text in places that the runner names; elsewhere nothing happens.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from speculators.benchmark.comparison import NOT_COMPARABLE
from speculators.benchmark.gate import REGRESSION, UNDECIDED
from speculators.recipe.diagnostics import Diagnostic
from speculators.recipe.positions import ARGUMENT_PREFIX

LEVELS = {REGRESSION: "error", NOT_COMPARABLE: "error", UNDECIDED: "warning"}
NOWHERE: Mapping[str, str] = MappingProxyType({})
#: GitHub refuses a larger summary of a step.
SUMMARY_BYTES = 1 << 20
LEFT_OUT = "A page is left out here, for GitHub takes no summary so long; it is in the run's folder."


def annotate(diagnostics: Sequence[Diagnostic], environ: Mapping[str, str] = os.environ) -> None:
    """Show each diagnostic beside its line of the recipe; what ``--set`` did has no line there."""
    if environ.get("GITHUB_ACTIONS") != "true":
        return
    for item in diagnostics:
        place = {} if item.file.startswith(ARGUMENT_PREFIX) else {"file": item.file, "line": str(item.line)}
        place |= {"col": str(item.col)} if place else {}
        help_lines = [f"help: {item.hint}"] if item.hint else []
        message = "\n".join([item.message, *help_lines, *(f"note: {note}" for note in item.notes)])
        level = "notice" if item.severity == "note" else item.severity
        print(annotation(level, item.rule, message, place), file=sys.stderr)


def show(verdict: str, sentence: str, page: str, environ: Mapping[str, str] = os.environ) -> None:
    """Annotate the job with a gate's ``sentence`` and append ``page`` (Markdown) to its summary."""
    _show(LEVELS.get(verdict, ""), f"speedup: {verdict}", sentence, page, environ)


def fail(rule: str, text: str, environ: Mapping[str, str] = os.environ) -> None:
    """Show what ended a command before it had a verdict; ``text``: as the terminal has it."""
    _show("error", rule, text, f"```\n{text}\n```", environ)


def _show(level: str, title: str, message: str, page: str, environ: Mapping[str, str]) -> None:
    if environ.get("GITHUB_ACTIONS") != "true":
        return
    if level:
        # On stderr, for stdout may be a JSON document; the runner reads both.
        print(annotation(level, title, message), file=sys.stderr)
    if summary := environ.get("GITHUB_STEP_SUMMARY"):
        append(Path(summary), page)


def annotation(level: str, title: str, message: str, place: Mapping[str, str] = NOWHERE) -> str:
    """A workflow command; what would end its parts early is escaped (actions/toolkit, command.ts)."""
    given = ",".join(f"{name}={_escaped(value, ',:')}" for name, value in {**place, "title": title}.items())
    return f"::{level} {given}::{_escaped(message)}"


def _escaped(text: str, more: str = "") -> str:
    for character in "%\r\n" + more:
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def append(summary: Path, page: str) -> None:
    """Add ``page`` to the summary if it still fits, or a word that it does not.

    GitHub refuses one that is too long as a whole.
    """
    before = summary.stat().st_size if summary.exists() else 0
    for text in (page, LEFT_OUT):
        if before + len(text.encode()) + 1 <= SUMMARY_BYTES:
            with summary.open("a", encoding="utf-8") as file:
                file.write(text + "\n")
            return
