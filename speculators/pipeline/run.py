"""Walk a recipe's stages: reuse what is there, make what is not, measure, report.

This is the only place that knows the order of things; what a stage is stands in its table row,
where it runs is the executor's business.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

from speculators.benchmark.checks import broken
from speculators.benchmark.run import run_benchmark
from speculators.checkpoint.config import localised
from speculators.documents import read_json, tree_files, value_digest, write_json
from speculators.errors import SpeculatorsError, StageError
from speculators.executors.base import Executor
from speculators.executors.local import LocalExecutor
from speculators.pipeline.console import Console
from speculators.pipeline.keys import key_of, key_parts
from speculators.pipeline.preflight import check_draft, check_engine_arguments, check_environment
from speculators.pipeline.record import RunRecord, copy_model
from speculators.pipeline.store import Store, default_home
from speculators.quantities import duration, size
from speculators.recipe.recipe import Recipe
from speculators.report.document import write_report
from speculators.serving.environment import engine_environment
from speculators.stages.documents import OUTPUT_NAME, StageInput
from speculators.stages.execution import COMMAND_NAME, INPUT_NAME, LOG_NAME, execute
from speculators.stages.table import REPLAY, Stage, build_stages, select

#: Small files of an output that a run folder keeps, because the store may be cleared.
KEPT_FILES = (OUTPUT_NAME, "ledger.json", "probe.json", "metrics.jsonl")
#: How an output was made; kept beside it, so that a run that reuses it can still show that.
HISTORY_FILES = (INPUT_NAME, COMMAND_NAME, LOG_NAME)
RESUME_HINT = "finished stages are kept: the same command continues from here"


class Run(NamedTuple):
    """What every step of one run needs."""

    recipe: Recipe
    record: RunRecord
    store: Store
    executor: Executor
    console: Console
    outputs: dict[str, Path]  # finished stage outputs by stage name


def run_recipe(recipe: Recipe, runs_dir: Path, executor: Executor | None = None) -> int:
    """Run ``recipe`` from the first missing output to its report.  Returns the exit code.

    Raises:
        MachineError: a package, memory or disk is missing.
        StageError: a stage failed; the message ends with the log's last lines.
    """
    check_environment()
    check_draft(recipe)
    check_engine_arguments(recipe)
    record = RunRecord(runs_dir, recipe)
    run = Run(recipe, record, Store(default_home()), executor or LocalExecutor(), Console(), {})
    run.console.say("run", f"{recipe.name} · {record.folder}")
    try:
        for stage in build_stages(recipe.data):
            run.outputs[stage.name] = build(run, stage)
        publish_model(run)
        measure(run)
        verdict = report(run)
    except KeyboardInterrupt:
        record.finish("interrupted")
        raise
    except SpeculatorsError as error:
        record.finish("failed", error=error.message.splitlines()[0])
        raise
    except BaseException as error:
        record.finish("failed", error=type(error).__name__)
        raise
    record.finish("ok", verdict=verdict)
    print(verdict)
    return 0


def report(run: Run) -> str:
    """Write the reports; the verdict.

    Raises:
        StageError: the arms cannot be compared; the reports say why.
    """
    document = write_report(run.record.folder, run.record.document)
    place = run.record.folder / "report.md"
    if failed := broken(document["summary"]["checks"]):
        raise StageError(
            f"the comparison is broken: {'; '.join(check['detail'] for check in failed)}; see {place}",
            hint="nothing can be said of the speed; measure again on a machine that does nothing else",
            rule="comparison",
        )
    run.console.say("report", str(place))
    return str(document["verdict"])


def build(run: Run, stage: Stage) -> Path:
    """The finished output of ``stage``: reused when its key is in the store, else made now."""
    data = run.recipe.data
    values = select(data, stage)
    inputs = {name: run.outputs[name] for name in stage.inputs if name in run.outputs}
    files = {name: paths for name, paths in run.recipe.files().items() if name in stage.files}
    sources = run.recipe.verifier_source() if stage.names_verifier else {}
    digests = {name: contents_digest(path) for name, path in inputs.items()}
    parts = key_parts(stage, values, digests, files, sources)
    key = key_of(parts)
    folder = run.record.stage_folder(stage.name)
    write_json(folder / "key.json", parts)
    with run.store.locked(stage.name, key):
        if found := run.store.find(stage.name, key):
            run.console.say(stage.name, f"reused {key[:12]}")
            _record_stage(run, stage.name, "reused", found, key)
            return found
        with run.store.filling(stage.name, key) as partial:
            perform(run, stage, StageInput(stage.name, values, inputs, files, partial))
        finished = run.store.path(stage.name, key)
        for name in HISTORY_FILES:  # after the output is sealed: how it was made is no part of what it is
            shutil.copyfile(folder / name, finished / name)
    _record_stage(run, stage.name, "run", finished, key)
    return finished


def measure(run: Run) -> None:
    """Benchmark the arms, then predict the served acceptance from the plain arm's outputs."""
    data = run.recipe.data
    folder = run.record.folder / "bench"
    values = {name: data[name] for name in ("verifier", "benchmark", "engine")}
    values["speculative_tokens"] = (
        data["benchmark"]["speculative_tokens"]
        or read_json(run.outputs["package"] / OUTPUT_NAME)["result"]["speculative_tokens"]
    )
    run.console.say("benchmark", "started")
    started = time.monotonic()
    try:
        with run.console.heartbeat("benchmark"):
            result = run_benchmark(
                values,
                run.outputs,
                folder,
                run.executor,
                on_line=lambda line: run.console.say("benchmark", line),
                on_client_line=run.console.heard,
            )
    except SpeculatorsError as error:
        _book_failure(run, "benchmark", started, error)
        raise
    write_json(folder / OUTPUT_NAME, {"result": result})
    run.outputs["benchmark"] = folder
    seconds = time.monotonic() - started
    run.console.say("benchmark", f"done in {duration(seconds)}")
    run.record.add_stage({"name": "benchmark", "action": "run", "seconds": round(seconds, 1)})
    predict(run)


def predict(run: Run) -> None:
    """Replay drafting on the plain arm's outputs.  A failure costs the prediction, not the measurement."""
    replayed = run.record.stage_folder("replay") / "output"
    inputs = {name: run.outputs[name] for name in REPLAY.inputs}
    try:
        perform(run, REPLAY, StageInput("replay", select(run.recipe.data, REPLAY), inputs, {}, replayed))
    except SpeculatorsError as error:
        run.console.say("replay", f"no prediction: {error.message}")
        write_json(replayed / "replay.json", {"not_predicted": error.message.splitlines()[0]})
        return
    _record_stage(run, "replay", "run", replayed, None)


def perform(run: Run, stage: Stage, step: StageInput) -> None:
    """Run one stage in the executor and keep its documents and log in the run folder.

    Raises:
        SpeculatorsError: of the class that the stage's exit code stands for.
    """
    folder = run.record.stage_folder(stage.name)
    environment = engine_environment(run.recipe.data["engine"]["env"]) if stage.engine else {}
    run.console.say(stage.name, f"started; log {folder / LOG_NAME}")
    started = time.monotonic()
    try:
        with run.console.heartbeat(stage.name):
            result = execute(run.executor, step, folder, environment, on_line=run.console.heard)
    except SpeculatorsError as error:
        _book_failure(run, stage.name, started, error)
        raise
    run.console.say(stage.name, f"done in {duration(result.seconds)} · {size(_bytes(step.output))}")


def contents_digest(output: Path) -> str:
    """Digest of a finished output's files, so that an unchanged output stops the cascade."""
    files = read_json(output / OUTPUT_NAME)["files"]
    return value_digest({name: entry["sha256"] for name, entry in files.items()})


def publish_model(run: Run) -> None:
    """Put the checkpoint into the run folder with the verifier's path made local.

    The stored one names its verifier by a canonical id, which holds anywhere; the run's copy is
    what ``vllm serve`` takes as it is, here.
    """
    model = run.record.folder / "model"
    copy_model(run.outputs["package"] / "model", model)
    config = localised(read_json(model / "config.json"), run.outputs["verifier"] / "model")
    write_json(model / "config.json", config)


def _record_stage(run: Run, name: str, action: str, output: Path, key: str | None) -> None:
    folder = run.record.stage_folder(name)
    for file in (output / kept for kept in (*KEPT_FILES, *HISTORY_FILES)):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    document = read_json(output / OUTPUT_NAME)
    entry: dict[str, Any] = {
        "name": name,
        "action": action,
        "seconds": document["seconds"],
        "bytes": _bytes(output),
        "result": document["result"],
    }
    run.record.add_stage(entry | ({"key": key} if key else {}))


def _book_failure(run: Run, name: str, started: float, error: SpeculatorsError) -> None:
    """Record that stage ``name`` failed, and add the way on to the error's hint."""
    seconds = round(time.monotonic() - started, 1)
    run.record.add_stage({"name": name, "action": "failed", "seconds": seconds})
    error.hint = "; ".join(filter(None, (error.hint, RESUME_HINT)))


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in tree_files(folder))
