#!/usr/bin/env python3
"""Drafts of this trainer and of the reference system on equal data, served by vLLM: who is accepted more?

    python benchmarks/quality.py ~/quality --plan               # what it would cost; runs nothing
    python benchmarks/quality.py ~/quality                      # 50k, 100k, 200k supervised tokens; hours
    python benchmarks/quality.py ~/quality-smoke --smoke        # shows that every part works; minutes
    python benchmarks/quality.py ~/quality --systems eagle3-k7 dflash-k7 --sizes 50000 200000

The same command continues what was interrupted: a training of this project at its checkpoint, one of the
reference at its start, everything else at the next unit; what is finished is kept in the folder.

Equal: rows, held-out topics, epochs, sequence length, draft vocabulary, proposed tokens, seeds, and three
learning rates to choose from.  The system's own: everything else, by its defaults.  Of this project those
of the recipe.  Of the reference (vllm-project/speculators 0.9.0) those of its own training command: norm
flags, Muon, linear schedule, loss mask, packing, choice of the best epoch by validation loss, checkpoints
in bfloat16.  That command runs unchanged in a process of its own, on a CPU and in float32:
``tests/reference/inside/command.py`` says what that takes.

The rate is chosen by replayed drafting on held-out topics, at the smallest size unless ``--search each``.
Acceptance is vLLM's own count of each answer, one request at a time, at temperature 0.  docs/trainer.md
explains the figures.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Below the path, because a checkout need not be installed.
from benchmarks.quality_cost import text as cost_text  # noqa: E402
from benchmarks.quality_data import subset  # noqa: E402
from benchmarks.quality_drafts import Draft, System, Task, Workshop, made  # noqa: E402
from benchmarks.quality_options import arguments, data_recipe, expected, settings  # noqa: E402
from benchmarks.quality_table import Counts, Served, changes, document, summed, table  # noqa: E402
from benchmarks.train_step import machine  # noqa: E402
from speculators.benchmark.arms import missing_packages  # noqa: E402
from speculators.benchmark.rounds import DRAFT, FREE_ARMS  # noqa: E402
from speculators.benchmark.run import run_benchmark  # noqa: E402
from speculators.documents import known_json, write_json  # noqa: E402
from speculators.errors import EXIT_INTERRUPTED, MachineError, SpeculatorsError, StageError  # noqa: E402
from speculators.executors.local import LocalExecutor  # noqa: E402
from speculators.pipeline.choice import Choice  # noqa: E402
from speculators.pipeline.console import Console, Voice  # noqa: E402
from speculators.pipeline.measure import keep_finished_rounds  # noqa: E402
from speculators.pipeline.run import Options, run_recipe  # noqa: E402
from speculators.pipeline.store import Lock, Store, default_home  # noqa: E402
from speculators.recipe.recipe import Recipe  # noqa: E402
from speculators.stages.documents import OUTPUT_NAME, read_output  # noqa: E402

COMPARED = (
    ("eagle3", "reference"),
    ("dflash-k7", "eagle3-k7"),
    *((new, free) for new in ("eagle3", "reference") for free in FREE_ARMS),
)
DATA = ("verifier", "prompts", "responses", "hidden_states")
OUTPUTS = "outputs.json"


class Comparison(NamedTuple):
    """A comparison at work: its options, its data and where drafts are made."""

    options: argparse.Namespace
    recipe: Recipe
    outputs: dict[str, Path]
    shop: Workshop
    chosen: dict[tuple[str, int], float]  # rates, by system and the size they were searched at

    @property
    def result(self) -> Path:
        """All figures; of other systems in the same folder there may be another."""
        return self.shop.folder / f"quality-{'-'.join(one.name for one in self.options.systems)}.json"

    def subset(self, size: int) -> Path:
        return subset(self.outputs["hidden_states"], self.shop.folder / "data" / str(size), size, seed=0)

    def best_rate(self, system: System, size: int) -> float:
        """The rate whose draft is accepted most on held-out topics.

        Raises:
            StageError: no rate led to a draft.
        """
        at = min(self.options.sizes) if self.options.search == "first" else size
        rates = self.options.rates
        if len(rates) == 1:
            return float(rates[0])
        if (system.name, at) not in self.chosen:
            best = max(self.tried(system, at), key=lambda draft: draft.predicted).task.rate
            edge = ", an end of those tried" if best in (min(rates), max(rates)) else ""
            self.shop.say(f"{system.name}: rate {best:g} is the best at {at}{edge}")
            self.chosen[system.name, at] = best
        return self.chosen[system.name, at]

    def tried(self, system: System, size: int) -> list[Draft]:
        """A draft of each rate; a rate that fails, as too high ones do, is said and left out.

        Raises:
            StageError: all of them failed.
        """
        found, failed = [], []
        for rate in self.options.rates:
            try:
                task = Task(system, size, rate, self.options.seeds[0])
                found.append(made(self.shop, task, self.subset(size)))
            except StageError as error:
                if error.rule == "other-settings":
                    raise
                failed.append(error)
                self.shop.say(f"{system.name}: rate {rate:g} is left out: {error.message}")
        if not found:
            raise failed[-1]
        return found

    def drafts(self, system: System, size: int) -> list[Draft]:
        """The system's drafts of one size at its best rate, one a seed."""
        rate = self.best_rate(system, size)
        return [
            made(self.shop, Task(system, size, rate, seed), self.subset(size)) for seed in self.options.seeds
        ]

    def serve(self, name: str, draft: Draft, arm: str = DRAFT) -> dict[str, Counts]:
        """Counts of each prompt; the launch is kept."""
        folder, options = self.shop.folder / "served" / name, self.options
        values = {name: self.recipe.data[name] for name in ("verifier", "benchmark", "engine")}
        values["benchmark"] = {
            **values["benchmark"],
            "requests": options.requests,
            "max_tokens": options.served,
            "concurrency": [1],
            "rounds": 1,
            "extra_arms": [one for one in FREE_ARMS if one == arm],
            "depths": [],
        }
        values["speculative_tokens"] = draft.speculative_tokens
        inputs = {name: self.outputs[name] for name in ("verifier", "prompts")} | {"package": draft.package}
        served = read_output(draft.package)["result"]["digest"] if arm == DRAFT else arm
        keep_finished_rounds(folder, {"values": values, "draft": served}, continued=True)
        self.shop.say(f"{name}: serving {options.requests} prompts")
        measured = run_benchmark(
            values, inputs, folder, self.shop.executor, on_line=self.shop.say, only=(arm,)
        )
        rows = measured["samples"][0]["requests"]
        if uncounted := [row["id"] for row in rows if row["spec"] is None]:
            raise MachineError(
                f"{folder}: vLLM counted no speculation of {', '.join(uncounted[:3])}",
                hint="this vLLM knows no --per-request-spec-decode-metrics",
            )
        return {
            row["id"]: Counts(row["spec"]["drafts"], row["spec"]["accepted"], row["output_tokens"])
            for row in rows
        }

    def served(self, system: System, size: int) -> Served:
        """A system at one size, over its seeds."""
        drafts = self.drafts(system, size)
        predicted = sum(draft.predicted for draft in drafts) / len(drafts)
        rate = drafts[0].task.rate
        return summed(
            [
                Served(system.name, size, self.serve(draft.task.name, draft), rate, predicted)
                for draft in drafts
            ]
        )

    def free(self) -> Iterator[Served]:
        """What costs no training, beside the smallest draft of the first system."""
        system, size = self.options.systems[0], min(self.options.sizes)
        left_out = missing_packages(self.options.free, self.shop.executor.interior("engine"))
        for arm, why in left_out.items():
            self.shop.say(f"{arm} is left out: {why}")
        for arm in self.options.free:
            if arm not in left_out:
                draft = self.drafts(system, size)[0]
                yield Served(arm, None, self.serve(f"{arm}-k{draft.speculative_tokens}", draft, arm))

    def run(self) -> str:
        """Everything, the small sizes first; each size's figures are written when they are there."""
        served: list[Served] = list(self.free())
        text = ""
        for size in sorted(self.options.sizes):
            for system in self.options.systems:
                if size in self.options.serve_sizes:
                    served.append(self.served(system, size))
                else:
                    self.drafts(system, size)
            found = changes(served, COMPARED)
            text = table(served, found)
            facts = {"machine": machine(), "options": settings(self.options)}
            write_json(self.result, facts | document(served, found))
            self.shop.say(f"figures so far, up to {size} supervised tokens:\n{text}")
        return text


def make_data(recipe: Recipe, folder: Path) -> dict[str, Path]:
    """The outputs of the project's data stages, made once for ``folder``: a later version keeps its data.

    Raises:
        SpeculatorsError: a stage failed.
    """
    record = known_json(folder / OUTPUTS)
    known = {name: Path(path) for name, path in record.get("outputs", {}).items()}
    if record.get("recipe") == recipe.data and all((path / OUTPUT_NAME).is_file() for path in known.values()):
        return known
    outputs: dict[str, Path] = {}
    for name in DATA:
        console = Console(voice=Voice("plain"))
        run = run_recipe(recipe, Options(folder / "runs", Choice(only=name)), console)
        key = next(one["key"] for one in run["stages"] if one["name"] == name)
        found = Store(default_home()).find(name, key)
        assert found is not None
        outputs[name] = found
    places = {name: str(path) for name, path in outputs.items()}
    write_json(folder / OUTPUTS, {"recipe": recipe.data, "outputs": places})
    return outputs


class Log:
    """Says a line on stderr and in the folder's ``log.txt``, with the time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, line: str) -> None:
        timed = f"{time.strftime('%H:%M:%S')} {line}"
        print(timed, file=sys.stderr, flush=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(timed + "\n")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """The folder, held by this program alone.

    Raises:
        MachineError: another one is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder / "lock")
    if not lock.try_take(alone=True):
        raise MachineError(f"{folder}: another comparison is at work here", hint="wait for it, or end it")
    try:
        yield
    finally:
        lock.close()


def compare(options: argparse.Namespace, recipe: Recipe, folder: Path, say: Log) -> None:
    """Make or find everything; the table is the program's output."""
    say(cost_text(expected(options, recipe)))
    outputs = make_data(recipe, folder)
    shop = Workshop(folder, outputs["verifier"], options.epochs, LocalExecutor(), say)
    comparison = Comparison(options, recipe, outputs, shop, {})
    print(comparison.run())
    say(f"done: {comparison.result}")


def main() -> int:
    options = arguments(__doc__)
    folder: Path = options.folder.absolute()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # being told to end is like ^C
    say = Log(folder / "log.txt")
    try:
        recipe = data_recipe(options)
        if options.plan:
            print(cost_text(expected(options, recipe)))
        else:
            with alone(folder):
                compare(options, recipe, folder, say)
    except SpeculatorsError as error:
        say(f"error: {error.message} [{error.rule}]\n  {error.hint}")
        return error.exit_code
    except KeyboardInterrupt:
        say("interrupted; the same command continues")
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
