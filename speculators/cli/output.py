"""A page where the user wants it, or why it cannot be there."""

from __future__ import annotations

from pathlib import Path

from speculators.errors import MachineError


def put(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, and the folders above it.

    Raises:
        MachineError: that is no place to write to.
    """
    from speculators.documents import write_text

    try:
        write_text(path, text)
    except (OSError, ValueError) as error:  # ValueError: it has no name
        message = f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}"
        raise MachineError(message, hint="name another place", rule="storage") from error
