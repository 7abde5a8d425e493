"""What must be true before the first stage starts, found out in seconds instead of after an hour.

The findings are those of ``speculators doctor``; here the first things a run cannot do without
stop it.
"""

from __future__ import annotations

import os
from pathlib import Path

from speculators.documents import value_digest, write_json
from speculators.errors import MachineError
from speculators.pipeline.keys import environment, module_digest
from speculators.pipeline.machine.engine import engine_findings
from speculators.pipeline.machine.findings import Finding, lacking
from speculators.pipeline.machine.packages import package_findings
from speculators.pipeline.machine.sources import draft_finding
from speculators.recipe.diagnostics import has_errors
from speculators.recipe.engine_probe import engine_diagnostics
from speculators.recipe.recipe import InvalidRecipeError, Recipe
from speculators.stages.table import ENGINE_PACKAGES

ACCEPTED = "accepted-engine-args"
CHECK = "speculators.recipe.engine_check"


def check_environment() -> None:
    """Stop when this environment cannot run the stages.

    Raises:
        MachineError: naming everything that is missing at once.
    """
    require([*package_findings(), *engine_findings()], "environment")


def check_engine_arguments(recipe: Recipe, home: Path) -> None:
    """Stop when the installed vLLM's own parser refuses the recipe's ``engine.args``.

    What it accepted once is remembered below ``home``: asking takes ten seconds or more.

    Raises:
        InvalidRecipeError: naming every argument at its place in the recipe.
    """
    args = recipe.data["engine"]["args"]
    asked = {"args": args, "engine": environment(ENGINE_PACKAGES), "code": module_digest(CHECK)}
    accepted = home / ACCEPTED / value_digest(asked)
    if accepted.is_file():
        return
    found = engine_diagnostics(args, recipe.positions)
    if has_errors(found):
        raise InvalidRecipeError(found)
    if not found:  # a note would say that nobody was asked
        write_json(accepted, asked)


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
