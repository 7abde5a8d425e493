"""How figures are spelled, on every page alike.

A figure that is None was not measured, and the page says so in these words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from speculators.quantities import duration, size

NOT_MEASURED = "not measured"


def number(value: float | None, digits: int = 2) -> str:
    return NOT_MEASURED if value is None else f"{value:,.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    return NOT_MEASURED if value is None else f"{100 * value:.{digits}f}%"


def difference(value: float | None) -> str:
    """A relative difference with its sign; one that rounds to nothing has a plus, not rounding's own sign."""
    return NOT_MEASURED if value is None else f"{round(100 * value, 1) + 0.0:+.1f}%"


def interval(ratio: dict[str, Any] | None) -> str:
    """A mean ratio with its interval, where there is one."""
    if ratio is None:
        return NOT_MEASURED
    if ratio["low"] is None:
        return f"{ratio['mean']:.2f}× (one round: no interval)"
    return f"{ratio['mean']:.2f}× [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def rates(values: Sequence[float] | None) -> str:
    """Acceptance rates by position."""
    return NOT_MEASURED if not values else " / ".join(f"{value:.3f}" for value in values)


def seconds(value: float | None) -> str:
    return NOT_MEASURED if value is None else duration(value)


def bytes_(value: int | None) -> str:
    return NOT_MEASURED if value is None else size(value)


def counts(value: dict[str, Any] | None) -> str:
    """Named counts in one cell; blocks within are spelled in brackets."""
    if not value:
        return "none"
    return ", ".join(f"{name.replace('_', ' ')} {_count(item)}" for name, item in value.items())


def _count(value: Any) -> str:
    if isinstance(value, dict):
        return f"({counts(value)})"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


#: What templates call them.
FILTERS = {
    "number": number,
    "percent": percent,
    "difference": difference,
    "interval": interval,
    "rates": rates,
    "seconds": seconds,
    "bytes": bytes_,
    "counts": counts,
}
