"""The report document as Markdown: a template and the few ways in which figures are spelled.

A figure that is None was not measured, and the page says so in these words.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

from speculators.quantities import duration, size
from speculators.report import comparison, expectations

NOT_MEASURED = "not measured"
TEMPLATE = "report.md.jinja"


def render(document: dict[str, Any]) -> str:
    """The Markdown page of a report document."""
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "number": number,
        "percent": percent,
        "difference": difference,
        "interval": interval,
        "rates": rates,
        "seconds": seconds,
        "bytes": bytes_,
        "counts": counts,
        "cell": cell,
        "comparison": comparison.markdown,
        "expected": expectations.sentence,
    }
    text = (resources.files("speculators.report") / "templates" / TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(text).render(document)


def number(value: float | None, digits: int = 2) -> str:
    return NOT_MEASURED if value is None else f"{value:,.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    return NOT_MEASURED if value is None else f"{100 * value:.{digits}f}%"


def difference(value: float | None) -> str:
    """A relative difference with its sign."""
    return NOT_MEASURED if value is None else f"{100 * value:+.1f}%"


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


def cell(text: str) -> str:
    """Text that is safe in a table."""
    return text.replace("|", "\\|").replace("\n", " ")
