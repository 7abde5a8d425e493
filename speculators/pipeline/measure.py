"""The benchmark of a run, and the prediction beside it.

A new run always measures anew.  A run that continues an interrupted one keeps the rounds that were
finished, if nothing that they depend on has changed.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speculators.benchmark.bench import body_for
from speculators.benchmark.checks import broken
from speculators.benchmark.guidellm import progress
from speculators.benchmark.resolution import resolution
from speculators.benchmark.run import STAGE, run_benchmark
from speculators.benchmark.summary import summarise
from speculators.checkpoint.config import CONFIG_NAME
from speculators.checkpoint.verifier_layout import text_config
from speculators.documents import known_json, value_digest, write_json
from speculators.errors import SpeculatorsError
from speculators.pipeline.gating import Gate
from speculators.pipeline.keys import imported_modules, module_digest
from speculators.pipeline.machine.kind import machine
from speculators.pipeline.opponent import itself, require_fit, require_same_tokens
from speculators.pipeline.plan import contents_digest, extra_arms
from speculators.pipeline.running import Run, book, perform, timed
from speculators.pipeline.store import KEY_LENGTH, KEY_NAME
from speculators.quantities import duration
from speculators.recipe.view import free_kind
from speculators.report.document import COMPARISON, NOISE
from speculators.stages.documents import OUTPUT_NAME, StageInput, read_output
from speculators.stages.table import ENGINE_PACKAGES, REPLAY, select

CODE = (f"speculators.stages.{STAGE}", "speculators.benchmark.run", "speculators.serving.launcher")
INPUTS = ("verifier", "prompts", "package", "quantised")
#: What of a machine a speed depends on.
MACHINE = ("processor", "cores", "memory_bytes", "gpus", "driver")
REPLAY_NAME = "replay.json"


def measure(run: Run) -> None:
    """Benchmark the arms, then predict the served acceptance from the plain arm's outputs."""
    folder = run.record.folder / "bench"
    values = benchmark_values(run)
    sitting = benchmark_parts(run, values)
    against, place = run.against, noise_place(run, sitting)
    base = against.base
    if base is not None:
        verifier = run.outputs["verifier"] / "model"
        require_fit(base, text_config(known_json(verifier / CONFIG_NAME)))
        require_same_tokens(base, verifier)
    if against.itself:
        base = itself(run.outputs["package"], values["speculative_tokens"], values["engine"])
    if base is not None:
        sitting["base"] = {"digest": base.digest, "tokens": base.tokens, "engine": base.engine}
    spread = known_json(place).get("spread", 0.0)
    if base is not None and base.served_otherwise(values["engine"]):
        spread *= math.sqrt(2)  # a plain arm for each draft: four launches a round in place of two
    gate = Gate(run, sitting, against.stored, spread) if against and not against.itself else None
    if gate is not None:
        body = body_for(values["verifier"], run.outputs["verifier"] / "model")
        gate.require_comparable({"algorithm": None, "tokens": values["speculative_tokens"]}, body)
    keep_finished_rounds(folder, sitting, continued=run.record.continued)
    for left in (COMPARISON, NOISE):  # of an attempt that ended early
        (run.record.folder / left).unlink(missing_ok=True)
    run.console.say("benchmark", "started")
    started = time.monotonic()
    with timed(run, "benchmark"):
        result = run_benchmark(
            values,
            run.outputs,
            folder,
            run.executor,
            on_line=lambda line: run.console.say("benchmark", line),
            on_client_line=lambda line: run.console.heard(line, progress(line)),
            holds=run.holds(),
            base=base,
            looks=gate.looks if gate is not None else (),
            enough=gate.enough if gate is not None else None,
        )
    if gate is not None:
        gate.conclude()
    if against.itself:
        keep_noise(run, result, place)
    write_json(folder / OUTPUT_NAME, {"result": result})
    run.outputs["benchmark"] = folder
    seconds = time.monotonic() - started
    run.console.say("benchmark", f"done in {duration(seconds)}")
    run.record.add_stage({"name": "benchmark", "action": "run", "seconds": round(seconds, 1)})
    predict(run)


def benchmark_values(run: Run) -> dict[str, Any]:
    """What the benchmark reads of the recipe."""
    data = run.recipe.data
    values = {name: data[name] for name in ("verifier", "benchmark", "engine")}
    values["benchmark"] = {**data["benchmark"], "extra_arms": extra_arms(run.recipe, run.against)}
    if method := free_kind(data):
        own = data["algorithm"]["speculative_tokens"]
    else:
        own = read_output(run.outputs["package"])["result"]["speculative_tokens"]
    tokens = data["benchmark"]["speculative_tokens"] or own
    return {**values, "speculative_tokens": tokens, **({"method": method} if method else {})}


def benchmark_parts(run: Run, values: dict[str, Any]) -> dict[str, Any]:
    """Everything that the rounds of one sitting have in common."""
    here = machine()
    return {
        "values": values,
        "inputs": {name: contents_digest(run.outputs[name]) for name in INPUTS if name in run.outputs},
        "environment": run.where.of(("engine", "bench"), (*ENGINE_PACKAGES, "guidellm")),
        "machine": {name: here[name] for name in MACHINE if name in here},
        "code": {name: module_digest(name) for entry in CODE for name in imported_modules(entry)},
    }


def noise_place(run: Run, sitting: Mapping[str, Any]) -> Path:
    """Where the noise of such sittings is kept: beside the store, by all that it depends on but the draft."""
    names = ("requests", "max_tokens", "concurrency", "warmup_requests")
    benchmark = sitting["values"]["benchmark"]
    own = {"side_by_side": True} if benchmark.get("side_by_side") else {}
    parts = {
        "benchmark": {name: benchmark[name] for name in names} | own,
        "engine": sitting["values"]["engine"],
        "verifier": sitting["inputs"]["verifier"],
        **{name: sitting[name] for name in ("environment", "machine")},
    }
    return run.store.root.parent / "noise" / f"{value_digest(parts)[:KEY_LENGTH]}.json"


def keep_noise(run: Run, benchmark: dict[str, Any], place: Path) -> None:
    """Leave what this machine can see in the run folder, and where later gates look for it.

    Arms that did different things say nothing of noise.
    """
    summary = summarise(benchmark)
    if broken([*summary["checks"], *summary["base"]["checks"]]):
        return
    gate = run.recipe.data["benchmark"]["gate"]
    prompts = read_output(run.outputs["prompts"])["result"]["benchmark"]
    found = resolution(benchmark, sorted(gate["looks"]), gate["speed_tolerance"], prompts, gate["power"])
    found["warnings"] = summary["warnings"]
    write_json(run.record.folder / NOISE, found)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_json(place, found)


def keep_finished_rounds(folder: Path, parts: dict[str, Any], *, continued: bool) -> None:
    """Clear what a benchmark under other conditions left in ``folder``."""
    key = folder / KEY_NAME
    same = continued and value_digest(known_json(key)) == value_digest(parts)
    if folder.exists() and not same:
        shutil.rmtree(folder)
    write_json(key, parts)


def forget_rounds(run: Run) -> None:
    """Let nothing of this benchmark be kept by a run that continues this one."""
    (run.record.folder / "bench" / KEY_NAME).unlink(missing_ok=True)


def predict(run: Run) -> None:
    """Replay drafting on the plain arm's outputs.  A failure costs the prediction, not the measurement."""
    replayed = run.record.stage_folder("replay") / "output"
    if method := free_kind(run.recipe.data):
        write_json(replayed / REPLAY_NAME, {"not_predicted": f"{method} has no draft model to replay"})
        return
    inputs = {name: run.outputs[name] for name in REPLAY.inputs}
    try:
        perform(run, REPLAY, StageInput("replay", select(run.recipe.data, REPLAY), inputs, {}, replayed))
    except SpeculatorsError as error:
        run.console.say("replay", f"no prediction: {error.message}")
        write_json(replayed / REPLAY_NAME, {"not_predicted": error.message.splitlines()[0]})
        return
    book(run, "replay", "run", replayed)
