"""Durations and sizes in words: the one spelling for consoles, errors and reports."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """``4.2`` -> ``4.2 s``, ``75`` -> ``1 min 15 s``, ``7320`` -> ``2 h 02 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def size(count: float) -> str:
    """Bytes: ``1536`` -> ``1.5 kB`` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
