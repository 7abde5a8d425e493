"""One thing found out about a machine, and what mends it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

State = Literal["ok", "warning", "missing", "not checked"]


class Finding(NamedTuple):
    """``check`` names what was looked at; ``mend`` says what to do, unless the state is ok."""

    check: str
    state: State
    detail: str
    mend: str = ""


def ok(check: str, detail: str) -> Finding:
    return Finding(check, "ok", detail)


def warning(check: str, detail: str, mend: str) -> Finding:
    """Runs may fail or suffer from this, or it is only untidy."""
    return Finding(check, "warning", detail, mend)


def missing(check: str, detail: str, mend: str) -> Finding:
    """A run cannot succeed without this."""
    return Finding(check, "missing", detail, mend)


def not_checked(check: str, reason: str, mend: str = "") -> Finding:
    return Finding(check, "not checked", reason, mend)


def lacking(findings: Iterable[Finding]) -> list[Finding]:
    """Those of the findings that keep a run from succeeding."""
    return [finding for finding in findings if finding.state == "missing"]
