"""What must be true before the first stage starts, found out in seconds instead of after an hour.

The findings are those of ``speculators doctor``; here the first things a run cannot do without
stop it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from speculators.documents import value_digest, write_json
from speculators.errors import MachineError
from speculators.executors.base import Executor, Needs, Step, last_object, log_tail
from speculators.executors.images import ROLES
from speculators.pipeline.keys import module_digest
from speculators.pipeline.machine.engine import engine_findings
from speculators.pipeline.machine.findings import Finding, lacking
from speculators.pipeline.machine.packages import package_findings, recipe_packages
from speculators.pipeline.machine.sources import run_findings
from speculators.pipeline.surroundings import HERE, Surroundings
from speculators.recipe.diagnostics import has_errors
from speculators.recipe.engine_probe import EngineAnswer, answer_in, diagnostics_of, engine_diagnostics
from speculators.recipe.recipe import InvalidRecipeError, Recipe
from speculators.stages.table import ENGINE_PACKAGES

ENGINE_ROLE = "engine"
ACCEPTED = "accepted-engine-args"
CHECK = "speculators.recipe.engine_check"


def check_environment(roles: Collection[str] = ROLES, recipe: Recipe | None = None) -> None:
    """Stop when this environment cannot run the stages of ``roles``, of ``recipe`` if one is given.

    Raises:
        MachineError: naming everything that is missing at once.
    """
    engine = engine_findings() if "engine" in roles else []
    own = recipe_packages(recipe) if recipe else ()
    require([*package_findings(own, roles), *engine], "environment")


def check_engine_arguments(
    recipe: Recipe, home: Path, where: Surroundings = HERE, executor: Executor | None = None
) -> None:
    """Stop when the parser of the vLLM that will serve refuses the recipe's ``engine.args``.

    What it accepted once is remembered below ``home``: asking takes ten seconds or more.

    Raises:
        InvalidRecipeError: naming every argument at its place in the recipe.
    """
    args = recipe.data["engine"]["args"]
    engine = where.of(("engine",), ENGINE_PACKAGES)
    asked = {"args": args, "engine": engine, "code": module_digest(CHECK)}
    accepted = home / ACCEPTED / value_digest(asked)
    if accepted.is_file():
        return
    if where.pins is None or executor is None:
        found = engine_diagnostics(args, recipe.positions)
    else:
        accepted.parent.mkdir(parents=True, exist_ok=True)
        # A folder for each attempt: another run may ask something else at this moment.
        with tempfile.TemporaryDirectory(dir=accepted.parent) as folder:
            found = diagnostics_of(ask_engine_inside(executor, args, Path(folder)), recipe.positions)
    if has_errors(found):
        raise InvalidRecipeError(found)
    if not found:  # a note would say that nobody was asked
        write_json(accepted, asked)


def ask_engine_inside(executor: Executor, args: Mapping[str, object], folder: Path) -> EngineAnswer:
    """What the vLLM of the engine's image says about ``engine.args``.

    ``folder``: where question and answer are kept.
    """
    question, log = folder / "engine-args.json", folder / "log.txt"
    write_json(question, dict(args))
    argv = [executor.interior("engine").python, "-m", "speculators.recipe.engine_check", str(question)]
    needs = Needs("engine", reads=[question])
    result = executor.run(Step("asking the engine about engine.args", argv, {}, log, needs=needs))
    if result.exit_code != 0 or not (said := last_object(log)):
        return EngineAnswer("", [], f"vLLM's parser could not be loaded: {log_tail(log, 1)}")
    return answer_in(said)


def check_servers(recipe: Recipe, executor: Executor) -> None:
    """Stop when the benchmark's servers are to run at once and the engine is not one that can.

    Raises:
        MachineError: no engine, or one for GPUs.
    """
    if not recipe.data["benchmark"]["side_by_side"]:
        return
    if not executor.interior(ENGINE_ROLE).require_launcher().on_cpu:
        raise MachineError(
            "benchmark.side_by_side: the engine is no CPU build, and a server takes all of a GPU",
            hint="leave side_by_side out",
            rule="side-by-side",
        )


def check_models(recipe: Recipe, *, makes_verifier: bool) -> None:
    """Stop when a model on the hub that the run takes from the cache was not fetched yet.

    ``makes_verifier``: whether the verifier's stage is to run.

    Raises:
        MachineError: naming the command that fetches it.
    """
    require(run_findings(recipe, os.environ, makes_verifier=makes_verifier), "not-fetched")


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
