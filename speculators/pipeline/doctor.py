"""All that a machine lacks for a recipe, in one list: each check is a row and looks at one subject."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from speculators.pipeline.machine import containers, gpu, leftovers, memory, orphans, sources, storage
from speculators.pipeline.machine.containers import computes_on, container_findings
from speculators.pipeline.machine.copies import copy_findings
from speculators.pipeline.machine.engine import engine_findings
from speculators.pipeline.machine.estimates import Needs
from speculators.pipeline.machine.findings import Finding, lacking, not_checked
from speculators.pipeline.machine.needs import needs_of
from speculators.pipeline.machine.packages import GGUF, package_findings, python_findings, recipe_packages
from speculators.pipeline.machine.ports import port_findings
from speculators.pipeline.store import Store
from speculators.recipe.recipe import Recipe
from speculators.serving.environment import has_cpu_engine
from speculators.serving.launcher import has_engine

REPORT_SCHEMA = "speculators/doctor/v1"


class Subject(NamedTuple):
    """What is examined: the places a run would use, and the recipe it would run, if one is given."""

    home: Path
    runs: Path
    environ: Mapping[str, str]
    recipe: Recipe | None = None
    needs: Needs | None = None  # None where the verifier's shape is unknown

    @property
    def engine_args(self) -> dict[str, Any]:
        args: dict[str, Any] = self.recipe.data["engine"]["args"] if self.recipe else {}
        return args


def subject_of(home: Path, runs: Path, environ: Mapping[str, str], recipe: Recipe | None = None) -> Subject:
    needs = needs_of(recipe, environ) if recipe else None
    return Subject(home.absolute(), runs.absolute(), environ, recipe, needs)


def _in_containers(subject: Subject) -> bool:
    """Whether the stages bring their packages and their engine along."""
    return subject.recipe is not None and subject.recipe.data["executor"] == "docker"


def _packages(subject: Subject) -> list[Finding]:
    if _in_containers(subject):
        return []
    if subject.recipe is None:
        return package_findings()
    gguf = (GGUF,) if "package" in subject.recipe.data["verifier"] else ()
    return package_findings((*gguf, *recipe_packages(subject.recipe)))


def _memory(subject: Subject) -> list[Finding]:
    if subject.recipe is not None and _in_containers(subject):
        return memory.judge_memory(memory.look(), subject.needs, is_cpu=computes_on(subject.recipe) == "cpu")
    if not has_engine():  # whether the weights are in host memory is up to the engine
        return memory.judge_memory(memory.look(), None, is_cpu=True)
    return memory.judge_memory(memory.look(), subject.needs, has_cpu_engine())


def _disk(subject: Subject) -> list[Finding]:
    needs = subject.needs
    store = storage.look("store", subject.home, "name another place with SPECULATORS_HOME")
    runs = storage.look("runs", subject.runs, "name another place with --runs-dir")
    return [
        storage.judge_place(store, needs.store if needs else None),
        storage.judge_place(runs, needs.model if needs else None),
    ]


def _gpu(subject: Subject) -> list[Finding]:
    if subject.recipe is not None and _in_containers(subject):
        if computes_on(subject.recipe) == "cuda":
            return gpu.judge_gpus(gpu.look(), subject.engine_args, subject.needs)
        return gpu.judge_without(subject.engine_args, subject.needs)
    if not has_engine() or has_cpu_engine():
        return gpu.judge_without(subject.engine_args, subject.needs)
    return gpu.judge_gpus(gpu.look(), subject.engine_args, subject.needs)


def _sources(subject: Subject) -> list[Finding]:
    if subject.recipe is None:
        return []
    found = sources.source_findings(
        subject.recipe, subject.environ, packages_here=not _in_containers(subject)
    )
    if subject.needs is None:
        reason = "memory and disk that the recipe takes: the verifier's config is not at hand"
        found.append(not_checked("estimates", reason, "fetch the verifier first, then ask again"))
    return found


#: In the order they are shown: what everything rests on comes first.
CHECKS: tuple[Callable[[Subject], list[Finding]], ...] = (
    lambda _: python_findings(),
    lambda _: copy_findings(),
    _packages,
    lambda subject: [] if _in_containers(subject) else engine_findings(),
    lambda subject: container_findings(subject.recipe),
    _gpu,
    _memory,
    _disk,
    lambda _: port_findings(),
    _sources,
    lambda subject: leftovers.leftover_findings(Store(subject.home).root),
    lambda _: orphans.orphan_findings(),
)


def examine(subject: Subject) -> list[Finding]:
    """The findings of every check."""
    return [finding for check in CHECKS for finding in check(subject)]


def clean(home: Path) -> list[Finding]:
    """End processes whose run is gone, then remove what they and others left unfinished."""
    return [*orphans.clean(), *containers.clean(), *leftovers.clean(Store(home).root)]


def report(findings: list[Finding]) -> dict[str, Any]:
    """The findings as one JSON document."""
    return {
        "schema": REPORT_SCHEMA,
        "ok": not lacking(findings),
        "findings": [finding._asdict() for finding in findings],
    }
