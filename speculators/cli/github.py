"""What GitHub Actions shows of a verdict: an annotation at the job, and the page on its summary.

Both are plain text in places that the runner names; elsewhere nothing happens.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from speculators.benchmark.comparison import NOT_COMPARABLE
from speculators.benchmark.gate import REGRESSION, UNDECIDED

LEVELS = {REGRESSION: "error", NOT_COMPARABLE: "error", UNDECIDED: "warning"}
#: GitHub refuses a larger summary of a step.
SUMMARY_BYTES = 1 << 20


def show(verdict: str, sentence: str, page: str, environ: Mapping[str, str] = os.environ) -> None:
    """Annotate the job with a gate's ``sentence`` and append ``page`` (Markdown) to its summary."""
    if environ.get("GITHUB_ACTIONS") != "true":
        return
    if level := LEVELS.get(verdict):
        # On stderr, for stdout may be a JSON document; the runner reads both.
        print(annotation(level, f"speedup: {verdict}", sentence), file=sys.stderr)
    if summary := environ.get("GITHUB_STEP_SUMMARY"):
        append(Path(summary), page)


def annotation(level: str, title: str, message: str) -> str:
    """A workflow command; what would end its parts early is escaped (actions/toolkit, command.ts)."""
    for character, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        title, message = title.replace(character, code), message.replace(character, code)
    for character, code in ((":", "%3A"), (",", "%2C")):
        title = title.replace(character, code)
    return f"::{level} title={title}::{message}"


def append(summary: Path, page: str) -> None:
    """Add ``page`` to the summary if it still fits: one that is too long is refused as a whole."""
    before = summary.stat().st_size if summary.exists() else 0
    if before + len(page.encode()) + 1 <= SUMMARY_BYTES:
        with summary.open("a", encoding="utf-8") as file:
            file.write(page + "\n")
