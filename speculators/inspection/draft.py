"""``inspect`` on a draft: every static check, as findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from speculators.checkpoint.check import Check
from speculators.checkpoint.config import CONFIG_NAME
from speculators.checkpoint.model import read_object, weights_of
from speculators.checkpoint.validate import validate
from speculators.checkpoint.weights_file import read_header
from speculators.errors import StageError
from speculators.inspection.findings import Finding, finding
from speculators.inspection.static_checks import ends_together, own_checks, verifier_config_checks


class Inspection(NamedTuple):
    """``findings``: the most particular first; ``passed``: names of the checks that found nothing."""

    findings: list[Finding]
    passed: list[str]

    @property
    def defects(self) -> list[Finding]:
        return [one for one in self.findings if one.is_defect]


def inspect_draft(folder: Path, verifier_dir: Path | None = None) -> Inspection:
    """Look at the draft in ``folder``, against its verifier if that is at hand; nothing is changed.

    A folder that cannot be read is a finding, not an error.
    """
    checks: list[Check] = []
    try:
        document, weights = read_object(folder / CONFIG_NAME), weights_of(folder)
        tensors, metadata = read_header(weights)
        checks += own_checks(document, tensors, metadata)
        if verifier_dir is not None:
            checks += verifier_config_checks(document, verifier_dir)
    except StageError:  # the validator says what is wrong with the files
        tensors, document = {}, {}
    found = _guarded(lambda: validate(folder, verifier_dir))
    if verifier_dir is not None and tensors:
        found = ends_together(found, tensors, verifier_dir, document)
    checks += found
    failed = [check for check in checks if not check.ok]
    return Inspection(_findings(failed), [check.name for check in checks if check.ok])


def _guarded(run: Callable[[], list[Check]]) -> list[Check]:
    """A stranger's config may hold anything; what the validator trips over is a defect of the config."""
    try:
        return run()
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, RecursionError) as error:
        return [Check("config readable", False, f"{CONFIG_NAME}: {type(error).__name__}: {error}")]


def _findings(failed: Iterable[Check]) -> list[Finding]:
    """One finding a name, what names a cause before what only shows a symptom."""
    known: dict[str, Finding] = {}
    for check in failed:
        one = finding(check.name, check.detail, severity=check.severity)
        known.setdefault(check.name, one)
    return sorted(known.values(), key=lambda one: not one.is_defect)
