"""What must be true before the first stage starts, found out in seconds instead of after an hour.

The findings are those of ``speculators doctor``; here the first things a run cannot do without
stop it.
"""

from __future__ import annotations

import os

from speculators.errors import MachineError
from speculators.pipeline.machine.engine import engine_findings
from speculators.pipeline.machine.findings import Finding, lacking
from speculators.pipeline.machine.packages import package_findings
from speculators.pipeline.machine.sources import draft_finding
from speculators.recipe.diagnostics import has_errors
from speculators.recipe.engine_probe import engine_diagnostics
from speculators.recipe.recipe import InvalidRecipeError, Recipe


def check_environment() -> None:
    """Stop when this environment cannot run the stages.

    Raises:
        MachineError: naming everything that is missing at once.
    """
    require([*package_findings(), *engine_findings()], "environment")


def check_engine_arguments(recipe: Recipe) -> None:
    """Stop when the installed vLLM's own parser refuses the recipe's ``engine.args``.

    Raises:
        InvalidRecipeError: naming every argument at its place in the recipe.
    """
    found = engine_diagnostics(recipe.data["engine"]["args"], recipe.positions)
    if has_errors(found):
        raise InvalidRecipeError(found)


def check_draft(recipe: Recipe) -> None:
    """Stop when the draft on the hub that the recipe brings was not fetched yet.

    Raises:
        MachineError: naming the command that fetches it.
    """
    found = draft_finding(recipe, os.environ)
    require([found] if found else [], "not-fetched")


def require(findings: list[Finding], rule: str) -> None:
    """Stop when a run cannot succeed.

    Raises:
        MachineError: with every missing thing, and each mend once.
    """
    if found := lacking(findings):
        raise MachineError(
            "; ".join(f"{finding.check}: {finding.detail}" for finding in found),
            hint="; ".join(dict.fromkeys(finding.mend for finding in found)),
            rule=rule,
        )
