"""How a failure looks on the terminal."""

from __future__ import annotations

import platform
import sys

from speculators import __version__
from speculators.errors import SpeculatorsError


def error_text(error: SpeculatorsError) -> str:
    """``error: message [rule]`` and the way out.

    The rule stands behind the message's first line: what follows may quote a log, which ends in a rule too.
    """
    first, *quoted = error.message.split("\n")
    lines = [f"error: {first} [{error.rule}]", *quoted]
    if error.hint:
        lines.append(f"      = help: {error.hint}")
    return "\n".join(lines)


def bug_text() -> str:
    """What to say after the traceback of an error that nobody foresaw."""
    return (
        "this is a bug in speculators, not in your recipe; please report it with the lines above\n"
        f"speculators {__version__} · Python {platform.python_version()} · {sys.platform}"
    )
