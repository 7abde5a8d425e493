"""Whether the captured states will fit, said before the engine starts.

Hidden states are by far the largest thing a run writes: a token costs layers x width x bytes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from speculators.errors import MachineError

__all__ = ["require_space", "states_bytes"]

GIB = 1 << 30


def states_bytes(tokens: int, layers: int, hidden_size: int, element_bytes: int) -> int:
    """Bytes of the states of ``tokens`` tokens."""
    return tokens * layers * hidden_size * element_bytes


def require_space(folder: Path, needed: int, *, free: int | None = None) -> str:
    """A line that says what is needed and what is free; ``free`` is asked of the disk unless given.

    Raises:
        MachineError: less is free than needed.
    """
    available = shutil.disk_usage(folder).free if free is None else free
    line = f"needs {_gib(needed)} of disk, {_gib(available)} free"
    if available < needed:
        raise MachineError(
            f"{folder}: capturing hidden states {line}",
            hint="free some space, or lower datagen.prompts.limit or datagen.max_tokens",
            rule="disk",
        )
    return line


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
