"""How a failure looks on the terminal."""

from __future__ import annotations

import platform
import sys

from speculators import __version__
from speculators.errors import SpeculatorsError


def error_text(error: SpeculatorsError) -> str:
    """The error and the way out."""
    return error.told() + (f"\n      = help: {error.hint}" if error.hint else "")


def bug_text() -> str:
    """What to say after the traceback of an error that nobody foresaw."""
    return (
        "this is a bug in speculators, not in your recipe; please report it with the lines above\n"
        f"speculators {__version__} · Python {platform.python_version()} · {sys.platform}"
    )
