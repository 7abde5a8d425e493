"""One run under way, and how a stage of it is performed, timed and kept in the run folder."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speculators.benchmark.arms import NOBODY, Opponent
from speculators.errors import SpeculatorsError
from speculators.executors.base import Executor, Needs
from speculators.pipeline.choice import Choice
from speculators.pipeline.console import Console
from speculators.pipeline.record import RunRecord
from speculators.pipeline.store import KEY_NAME, Lock, Store
from speculators.pipeline.surroundings import HERE, Surroundings
from speculators.quantities import duration, size
from speculators.recipe.hub_cache import repository_folder
from speculators.recipe.recipe import Recipe
from speculators.stages.documents import OUTPUT_NAME, TRACKS_NAME, StageInput, output_bytes, read_output
from speculators.stages.execution import COMMAND_NAME, INPUT_NAME, LOG_NAME, execute
from speculators.stages.table import Stage

#: Small files of an output that a run folder keeps, because the store may be cleared.
KEPT_FILES = (OUTPUT_NAME, "ledger.json", "probe.json", "metrics.jsonl")
#: How an output was made; kept beside it, so that a run that reuses it can still show that.
HISTORY_FILES = (KEY_NAME, INPUT_NAME, COMMAND_NAME, LOG_NAME)


@dataclass
class Run:
    """What every step of one run needs, and what it has got so far."""

    recipe: Recipe
    record: RunRecord
    store: Store
    executor: Executor
    console: Console
    choice: Choice
    command: str = ""
    where: Surroundings = HERE
    against: Opponent = NOBODY  # what the benchmark is held against
    outputs: dict[str, Path] = field(default_factory=dict)  # finished stage outputs by stage name
    given: dict[str, dict[str, list[Path]]] = field(
        default_factory=dict
    )  # files that no recipe names, by stage
    whole: set[str] = field(default_factory=set)  # stages whose output was compared with its digests
    locks: dict[Path, Lock] = field(default_factory=dict)  # of the outputs in use, by their place

    def holds(self) -> list[int]:
        """The open locks, which whatever this run starts keeps locked until it has ended."""
        return [lock.fileno() for lock in (self.record.lock, *self.locks.values())]


def perform(run: Run, stage: Stage, step: StageInput) -> None:
    """Run one stage in the executor and keep its documents and log in the run folder.

    Raises:
        SpeculatorsError: of the class that the stage's exit code stands for.
    """
    folder = run.record.stage_folder(stage.name)
    environment = {}
    if stage.engine:
        environment = run.executor.interior(stage.role).environment(run.recipe.data["engine"]["env"])
    run.console.say(stage.name, f"started; log {folder / LOG_NAME}")
    with timed(run, stage.name):
        result = execute(
            run.executor,
            step,
            folder,
            environment,
            on_line=run.console.heard,
            holds=run.holds(),
            needs=Needs(stage.role, reads=hub_folders(run.recipe, stage), gpus=stage.gpus),
        )
    run.console.say(
        stage.name, f"done in {duration(result.seconds)} · {size(output_bytes(read_output(step.output)))}"
    )


def hub_folders(recipe: Recipe, stage: Stage) -> list[Path]:
    """Cached repositories that the stage takes a model from: their snapshots are links into them."""
    named = [recipe.data["verifier"].get("repository")] if stage.names_verifier else []
    named += [source[0] for name, source in recipe.hub_models().items() if name in stage.files]
    return [repository_folder(name, os.environ) for name in named if name]


@contextmanager
def timed(run: Run, name: str) -> Iterator[None]:
    """A stage at work: shown on the console; booked as failed when it fails."""
    started = time.monotonic()
    try:
        with run.console.working(name):
            yield
    except SpeculatorsError:
        seconds = round(time.monotonic() - started, 1)
        with suppress(OSError):  # on a full disk the stage's own error matters more
            run.record.add_stage({"name": name, "action": "failed", "seconds": seconds})
        raise


def book(run: Run, name: str, action: str, output: Path, **more: Any) -> None:
    """Enter a finished stage into the record, and keep its small files in the run folder."""
    folder = run.record.stage_folder(name)
    for file in (output / kept for kept in (*KEPT_FILES, *HISTORY_FILES)):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    if (output / TRACKS_NAME).is_dir():
        shutil.copytree(output / TRACKS_NAME, folder / TRACKS_NAME, dirs_exist_ok=True)
    document = read_output(output)
    found = {"seconds": document["seconds"], "bytes": output_bytes(document), "result": document["result"]}
    run.record.add_stage({"name": name, "action": action, **found, **more})
