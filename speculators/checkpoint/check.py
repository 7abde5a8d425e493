"""The answer to one question about a checkpoint; what the validator and its reports share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Check(NamedTuple):
    """One question about a checkpoint and its answer.

    ``detail`` says what is wrong, or what was seen.  A failed check with ``severity`` "warning"
    limits where the checkpoint can be used; "error" means that it must not be used.
    """

    name: str
    ok: bool
    detail: str
    severity: str = "error"


def listed(checks: Sequence[Check]) -> str:
    """Names and details of ``checks`` in one line, for a message."""
    return "; ".join(f"{check.name} ({check.detail})" for check in checks)


def failures(checks: Sequence[Check]) -> list[Check]:
    """The failed checks that forbid use."""
    return [check for check in checks if not check.ok and check.severity == "error"]
