"""What can be compared, from where it lies: a run's folder, a bundle of a run, a baseline file.

Nothing is run here and nothing is measured: what is not stored is not known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from speculators.benchmark.comparison import Comparison, Difference, compare, differences
from speculators.benchmark.figures import Limits
from speculators.benchmark.measurement import Measurement, asked_prompts, measurement, parse
from speculators.bundle.contents import CARD, LOCK_NAME, RESOLVED_NAME
from speculators.bundle.evidence import Evidence, evidence_of_bundle, evidence_of_run
from speculators.bundle.fetch import fetched, is_bundle
from speculators.bundle.run_files import text_of
from speculators.bundle.schemas import schema_fault
from speculators.bundle.verify import verify
from speculators.errors import RecipeError
from speculators.pipeline.gating import limits_of
from speculators.pipeline.record import LATEST, RECORD_NAME
from speculators.recipe.yaml_loader import load_yaml
from speculators.report.served_card import served_sections

RUNS = "a run's folder or a bundle (.speculators.tar)"
#: What holds a measurement, which a comparison needs no more of.
MEASURED = "a run's folder, a bundle (.speculators.tar) or a baseline file (.json)"


class Source(NamedTuple):
    """A measurement with what is known of where it is from; a baseline file knows no more.

    ``gate``: the recipe's tolerances; ``recipe``, ``lock``: flat, by dotted path.
    """

    measured: Measurement
    gate: Mapping[str, Any] | None = None
    recipe: dict[str, Any] | None = None
    lock: dict[str, Any] | None = None

    @property
    def limits(self) -> Limits:
        return limits_of(self.gate) if self.gate else Limits()


class Stored(NamedTuple):
    """A run's documents, and the text of its recipe, its lock and its checkpoint's card; empty for none."""

    evidence: Evidence
    recipe: str
    lock: str
    card: str


def load_source(source: str) -> Source:
    """The measurement at ``source``.

    Raises:
        RecipeError: there is none, it is not finished, or the file is no baseline.
        DamagedBundleError: the bundle is not as it was written.
        MachineError: it cannot be reached.
    """
    path = Path(source)
    if path.is_file() and not is_bundle(source):
        return Source(parse(baseline_document(path)))
    return measured_by(source, stored(source, MEASURED))


def report_of(source: str) -> dict[str, Any]:
    """The report document of the finished run at ``source``; raises as ``load_source``."""
    return _report(source, stored(source))


def card_of(source: str) -> str:
    """The model card of the finished run at ``source``, with what was measured; raises as ``load_source``."""
    run = stored(source)
    report = _report(source, run)
    if not run.card:
        hint = "its folder has no model/README.md: was model/ removed?"
        raise RecipeError(f"{source}: the card of this run's checkpoint is gone", hint=hint, rule="no-card")
    return f"{run.card}\n{served_sections(report, run.recipe, run.lock)}"


def _report(source: str, run: Stored) -> dict[str, Any]:
    if not (document := run.evidence.report):
        raise RecipeError(
            f"{source}: this run left no report", hint="run the recipe to its end", rule="no-report"
        )
    return document


def benchmark_of(source: str) -> dict[str, Any]:
    """The benchmark document of the run at ``source``; raises as ``load_source``."""
    evidence = stored(source).evidence
    if not evidence.benchmark:
        raise RecipeError(
            f"{source}: this run has no benchmark", hint="run the recipe to its end", rule="no-benchmark"
        )
    if (status := evidence.record.get("status")) != "ok":
        raise RecipeError(
            f"{source}: this run ended as '{status}', so nothing is concluded from its benchmark",
            hint="its report.html and run.json say why; run the recipe again",
            rule="no-benchmark",
        )
    return evidence.benchmark


def weights_of(source: str) -> str | None:
    """SHA-256 of the weights of the draft that the run at ``source`` served, None without one; raises as
    ``load_source``."""
    sealed: dict[str, Any] = stored(source).evidence.outputs["package"]
    return next((entry["sha256"] for name, entry in sealed.items() if name.endswith(".safetensors")), None)


def stored(source: str, kinds: str = RUNS) -> Stored:
    """A run's documents from its folder or from a bundle of it; raises as ``load_source``.

    ``kinds``: what the caller takes, for who named something else.
    """
    if is_bundle(source):
        with fetched(source) as file:
            bundle = verify(file)
            texts = (
                bundle.archive.read(name).decode() if name in bundle.archive.members else ""
                for name in (RESOLVED_NAME, LOCK_NAME, CARD)
            )
            return Stored(evidence_of_bundle(bundle), *texts)
    folder = Path(source)
    if not (folder / RECORD_NAME).is_file():
        raise _no_run(folder, source, kinds)
    paths = (folder / RESOLVED_NAME, folder / LOCK_NAME, folder / "model" / "README.md")
    texts = (text_of(path) if path.is_file() else "" for path in paths)
    return Stored(evidence_of_run(folder), *texts)


def _no_run(path: Path, source: str, kinds: str) -> RecipeError:
    hint = f"name {kinds}"
    if path.is_file():
        what = "this file is no bundle of a run"
    elif not path.is_dir():
        what = "there is no such file or folder"
    else:
        what = "no run is in this folder"
        if (path / LATEST / RECORD_NAME).is_file():
            hint = f"the last one of this recipe is {path / LATEST}"
    return RecipeError(f"{source}: {what}", hint=hint, rule="no-run")


def baseline_document(path: Path) -> dict[str, Any]:
    """The document in a baseline file.

    Raises:
        RecipeError: it is none.
    """
    hint = "write one with: speculators report RUN --format baseline"
    try:
        text = path.read_text(encoding="utf-8")
        document: dict[str, Any] = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: not JSON: {error}", hint=hint, rule="no-baseline") from error
    if fault := schema_fault(document, "baseline") or _uncounted(document):
        raise RecipeError(f"{path}: no baseline: {fault}", hint=hint, rule="no-baseline")
    return document


def _finite(word: str) -> float:
    """The number that ``word`` is; with infinity or NaN, which Python reads too, nothing is ever certain."""
    if not math.isfinite(number := float(word)):
        raise ValueError(f"{word} is no number")
    return number


def _uncounted(document: Mapping[str, Any]) -> str:
    """What is wrong with a baseline's counts that its schema cannot say; empty where they are whole."""
    for place, load in enumerate(document["loads"]):
        rounds, counted = len(load["speedups"]), len(load["drafting"])
        if counted not in (0, rounds):
            return f"loads.{place}.drafting: counts of {counted} rounds, speedups of {rounds}"
    return ""


def measured_by(name: str, run: Stored) -> Source:
    """The measurement of a finished run.

    Raises:
        RecipeError: the run has no whole benchmark.
    """
    evidence = run.evidence
    if not (evidence.sitting and evidence.benchmark and evidence.record.get("status") == "ok"):
        raise RecipeError(
            f"{name}: this run has no finished benchmark",
            hint="run the recipe to its end, or name another run",
            rule="no-benchmark",
        )
    prompts = asked_prompts(evidence.keys["prompts"])
    measured = measurement(evidence.record, evidence.sitting, prompts, evidence.benchmark)
    gate = evidence.sitting["values"]["benchmark"].get("gate")
    return Source(measured, gate, _flat_yaml(run.recipe), _flat_yaml(run.lock))


def compare_sources(old: Source, new: Source, *, anyway: bool = False) -> Comparison:
    """The comparison of two stored measurements by the newer one's tolerances, at one look."""
    found = compare(old.measured, new.measured, new.limits, anyway=anyway)
    return found._replace(recipe=_between(old.recipe, new.recipe), lock=_between(old.lock, new.lock))


def _between(old: dict[str, Any] | None, new: dict[str, Any] | None) -> tuple[Difference, ...]:
    return tuple(differences(old, new)) if old and new else ()


def _flat_yaml(text: str) -> dict[str, Any] | None:
    """A YAML document's values by dotted path."""
    return flat(load_yaml(text, "").data) if text else None


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """The leaves below ``value`` by dotted path."""
    if not isinstance(value, dict):
        return {path: value}
    found: dict[str, Any] = {}
    for name, item in value.items():
        found |= flat(item, f"{path}.{name}" if path else str(name))
    return found
