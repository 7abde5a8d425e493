"""How a failure looks on the terminal."""

from __future__ import annotations

import errno
import platform
import sys

from speculators import __version__
from speculators.errors import SpeculatorsError

#: What the machine says no to, as opposed to a file that we should have written ourselves.
MACHINE_ERRNOS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}
SPACE_HINT = "make room there, or name another place with --runs-dir or SPECULATORS_HOME"


def error_text(error: SpeculatorsError) -> str:
    """``error: message [rule]`` and the way out."""
    lines = [f"error: {error.message} [{error.rule}]"]
    if error.hint:
        lines.append(f"      = help: {error.hint}")
    return "\n".join(lines)


def bug_text() -> str:
    """What to say after the traceback of an error that nobody foresaw."""
    return (
        "this is a bug in speculators, not in your recipe; please report it with the lines above\n"
        f"speculators {__version__} · Python {platform.python_version()} · {sys.platform}"
    )
