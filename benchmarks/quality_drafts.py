"""One draft of the quality comparison: trained by its own system, packaged, judged; made once and kept.

Both systems' drafts go the same way after their training: the project's ``package`` stage validates and
completes the checkpoint, and greedy drafting is replayed on the held-out documents.  That figure chooses
the learning rate, for both systems the same way and without the benchmark's prompts.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file

from benchmarks.quality_data import draft_ids, for_reference, require_same
from speculators.datagen.shards import read_documents
from speculators.documents import known_json, write_json
from speculators.errors import MachineError, StageError
from speculators.executors.base import Step, log_tail
from speculators.executors.local import LocalExecutor
from speculators.inspection.replay import replay_checkpoint
from speculators.recipe.recipe import Recipe, require_recipe
from speculators.stages.documents import StageInput, damaged_files, read_output, seals
from speculators.stages.execution import execute
from speculators.stages.table import PACKAGE, TRAINING, Stage, select
from speculators.training.files import VOCABULARY_NAME
from tests.reference.environment import INSIDE, UnavailableError, reference_environment, reference_folder

RECORD = "draft.json"
#: The reference's name for its checkpoint of least validation loss.
BEST = "checkpoint_best"

Record = dict[str, Any]


class System(NamedTuple):
    """What trains a draft: a recipe's ``algorithm`` and ``training``, by this project or by the reference."""

    name: str
    recipe: Path
    reference: bool = False
    speculative_tokens: int | None = None  # instead of the recipe's


class Task(NamedTuple):
    """One training."""

    system: System
    size: int
    rate: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.system.name}/{self.size}-rate-{self.rate:g}-seed-{self.seed}"


class Draft(NamedTuple):
    """A finished one.  ``predicted``: its replayed acceptance length on the held-out documents."""

    task: Task
    package: Path
    speculative_tokens: int
    predicted: float
    record: Record


@dataclass(frozen=True)
class Workshop:
    """Where drafts are made: ``folder`` keeps them, ``verifier`` is that stage's output."""

    folder: Path
    verifier: Path
    epochs: int
    executor: LocalExecutor
    say: Callable[[str], None]

    @property
    def model(self) -> Path:
        return self.verifier / "model"

    @property
    def facts(self) -> dict[str, Any]:
        """What the verifier stage found out about the model."""
        found: dict[str, Any] = read_output(self.verifier)["result"]["facts"]
        return found


def recipe_of(task: Task, epochs: int) -> Recipe:
    """The system's recipe with the task's settings."""
    changed = {"epochs": epochs, "learning_rate": task.rate, "seed": task.seed}
    overrides = [f"training.{name}={value}" for name, value in changed.items()]
    if tokens := task.system.speculative_tokens:
        overrides.append(f"algorithm.speculative_tokens={tokens}")
    return require_recipe(task.system.recipe, overrides)


def made(shop: Workshop, task: Task, subset: Path) -> Draft:
    """The draft of ``task`` on ``subset``, from the folder or trained now.

    Raises:
        SpeculatorsError: a training or the checkpoint's checks failed, or the folder is of other settings.
    """
    folder, recipe = shop.folder / "drafts" / task.name, recipe_of(task, shop.epochs)
    settings = {
        "algorithm": recipe.data["algorithm"],
        "training": recipe.data["training"],
        "data": known_json(subset / "subset.json"),
    }
    record = known_json(folder / RECORD)
    if record:
        require_same(folder, record["settings"], settings)
    else:
        started = time.monotonic()
        shop.say(f"{task.name}: training on {settings['data']['supervised_tokens']} supervised tokens")
        train = _train_reference if task.system.reference else _train
        files = train(shop, task, recipe, subset, folder)
        seconds = time.monotonic() - started
        _stage(shop, PACKAGE, recipe, folder / "package", *files)
        judged = replayed(shop, folder / "package", subset, recipe)
        record = {"task": task.name, "settings": settings, "seconds": round(seconds, 1), "judged": judged}
        write_json(folder / RECORD, record)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    length = record["judged"]["all"]["acceptance_length"]
    shop.say(f"{task.name}: acceptance length {length:.3f} on held-out topics, {record['seconds']:.0f} s")
    return Draft(task, folder / "package" / "output", record["judged"]["speculative_tokens"], length, record)


def replayed(shop: Workshop, package: Path, subset: Path, recipe: Recipe) -> Record:
    """Greedy drafting of the packaged draft on the held-out documents."""
    held_out = list(read_documents(subset, "validation"))
    tokens = recipe.data["algorithm"]["speculative_tokens"]
    return replay_checkpoint(package / "output" / "model", shop.model, held_out, tokens)


Inputs = tuple[dict[str, Path], dict[str, list[Path]]]  # outputs of earlier stages, and files


def _train(shop: Workshop, task: Task, recipe: Recipe, subset: Path, folder: Path) -> Inputs:
    """This project's training stage, which continues where an earlier attempt was interrupted."""
    output = _stage(shop, TRAINING, recipe, folder / "training", {"hidden_states": subset}, {})
    if not load_file(output / VOCABULARY_NAME)["draft_ids"].equal(_draft_ids(shop, recipe, subset)):
        raise StageError(
            f"{output}: the draft vocabulary is not the one that the reference is given",
            hint="this is a fault of the comparison: a subset must need no cutting to the sequence length",
            rule="vocabulary",
        )
    return {"training": output}, {}


def _train_reference(shop: Workshop, task: Task, recipe: Recipe, subset: Path, folder: Path) -> Inputs:
    """The reference's training command, from its start: what it resumes from is rounded to bfloat16."""
    algorithm = recipe.data["algorithm"]
    data = for_reference(
        subset,
        shop.folder / "reference-data" / str(task.size),
        shop.facts["vocab_size"],
        algorithm["draft_vocabulary"],
    )
    checkpoints = folder / "checkpoints"
    shutil.rmtree(checkpoints, ignore_errors=True)
    arguments: dict[str, Any] = {
        "speculator-type": "eagle3",
        "verifier-name-or-path": shop.model,
        "num-layers": algorithm["layers"],
        "target-layer-ids": algorithm["aux_layers"],
        "draft-vocab-size": algorithm["draft_vocabulary"],
        "ttt-steps": algorithm["speculative_tokens"],
        "data-path": data.folder,
        "train-data-ratio": data.train_ratio,
        "total-seq-len": recipe.data["training"]["sequence_length"],
        "on-missing": "raise",
        "num-workers": 0,
        # What its defaults take from a GPU: flex attention, the Triton loss and bfloat16.
        "draft-attn-impl": "sdpa",
        "loss-implementation": "eager",
        "hidden-states-dtype": "float32",
        "epochs": shop.epochs,
        "lr": task.rate,
        "seed": task.seed,
        "save-path": checkpoints,
        "log-dir": folder / "logs",
    }
    argv = [sys.executable, str(INSIDE / "command.py"), "--save-best"]
    for name, value in arguments.items():
        argv += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    _run(shop, argv, folder / "log.txt")
    return {}, {"draft": [(checkpoints / BEST).resolve()]}


def _run(shop: Workshop, argv: list[str], log: Path) -> None:
    """Run the reference's command to its end, supervised: it ends when this program does.

    Raises:
        MachineError: the reference cannot be had here.
        StageError: the command failed.
    """
    try:
        environment = reference_environment(reference_folder())
    except UnavailableError as error:
        raise MachineError(
            f"the reference cannot be had: {error}",
            hint="it is fetched with pip; --systems eagle3 compares with the free arms alone",
            rule="reference",
        ) from error
    log.unlink(missing_ok=True)
    result = shop.executor.run(Step("reference", argv, {**environment, "TQDM_DISABLE": "1"}, log))
    if result.exit_code:
        raise StageError(
            f"the reference's training ended with exit code {result.exit_code}; last lines of {log}:\n"
            f"{log_tail(log)}",
            hint="what is finished is kept: the same command continues",
            rule="reference",
        )


def _draft_ids(shop: Workshop, recipe: Recipe, subset: Path) -> Any:
    return draft_ids(subset, shop.facts["vocab_size"], recipe.data["algorithm"]["draft_vocabulary"])


def _stage(
    shop: Workshop,
    stage: Stage,
    recipe: Recipe,
    folder: Path,
    inputs: dict[str, Path],
    files: dict[str, list[Path]],
) -> Path:
    """The output of one of the project's stages below ``folder``, of an earlier attempt or made now."""
    output = folder / "output"
    named = {"verifier": shop.verifier, **inputs}
    step = StageInput(stage.name, select(recipe.data, stage), named, files, output)
    if not finished(step):
        execute(shop.executor, step, folder, {}, label=f"{stage.name} of {folder.parent.name}")
    return output


def finished(step: StageInput) -> bool:
    """Whether the stage's output is there, whole, and made from exactly this input."""
    try:
        document = read_output(step.output)
    except StageError:
        return False
    return seals(document, step) and not damaged_files(step.output, document)
