"""Durations and sizes: one spelling for consoles, errors and reports; how recipes and options write them."""

from __future__ import annotations

import re
from typing import Any

#: As vLLM reads them: small letters are powers of 1000, capitals of 1024.
SUFFIXES = {
    **{letter: 1000**power for power, letter in enumerate("kmgt", 1)},
    **{letter: 1024**power for power, letter in enumerate("KMGT", 1)},
}
SECONDS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
BYTES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


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


def byte_count(value: Any) -> int:
    """Bytes of a size as vLLM reads it: ``1G`` is 2**30, ``1g`` is 10**9; 0 when it is not given."""
    text = str(value or 0)
    number, factor = (text[:-1], SUFFIXES[text[-1]]) if text[-1] in SUFFIXES else (text, 1)
    try:
        return int(float(number) * factor)
    except ValueError:
        return 0


def age(seconds: float) -> str:
    """``7320`` -> ``2 h 02 min ago``, ``259200`` -> ``3 d ago``."""
    days = int(seconds // SECONDS["d"])
    return f"{days} d ago" if days > 1 else f"{duration(max(0.0, seconds))} ago"


def parse_duration(text: str) -> float | None:
    """Seconds of ``90m``, ``12h``, ``30d`` or ``2w``; None when it is no duration."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([mhdw])", text)
    return float(found[1]) * SECONDS[found[2]] if found else None


def parse_size(text: str) -> int | None:
    """Bytes of ``500M`` or ``1.5 GB`` (powers of 1000, as ``size`` writes them); None when it is no size."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kKMGT]?)B?", text)
    return round(float(found[1]) * BYTES[found[2].upper()]) if found else None
