#!/usr/bin/env python3
"""The optimiser step of this trainer and of the reference system, in turns, on equal weights and batches.

    python benchmarks/train_step.py                                # SmolLM2-135M, packs of 2048, K=3
    python benchmarks/train_step.py --supervised 0.3 --rounds 9
    python benchmarks/train_step.py --savings --supervised 0.3     # single savings turned off
    python benchmarks/train_step.py --sides fast --tokens 1024 2048 4096 8192 16384
    python benchmarks/train_step.py --sides fast --supervised 1 --profile 20
    python benchmarks/train_step.py --sides fast oracle --optimizer muon --tokens 1024

Each side runs in its own process, and they take turns step by step; in the same round one more process
runs the matrix products of the first side's step alone, which says how much of the machine's matmul speed
the step reaches.  All sides must report the same loss at every step, or the program fails.
docs/trainer.md explains the columns.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Below the path, because a checkout need not be installed.
from benchmarks.shapes import SHAPES  # noqa: E402
from benchmarks.step_sides import OURS  # noqa: E402
from benchmarks.step_table import Round, Setting, Step, table  # noqa: E402
from benchmarks.step_workload import documents  # noqa: E402
from speculators.checkpoint.eagle3 import Eagle3Config  # noqa: E402
from speculators.training.optimiser import BETAS, KINDS  # noqa: E402
from tests.reference.cases import random_batch, random_weights  # noqa: E402
from tests.reference.environment import Side, UnavailableError, reference_side  # noqa: E402

REFERENCE = "reference"
SAVINGS = ("fast", "every-row", "every-logit", "plain-attention", "dense-draft", "oracle")
RATE = 1e-4
SAME_LOSS = 1e-3  # relative; the walks part by rounding alone, from 1e-6 at the first step


class Taking(NamedTuple):
    """A side that takes part: its process, and that process's bytes before it held anything."""

    process: Side
    bare: int

    def step(self, batch: Path) -> Step:
        found = self.process.ask("step", case=str(batch))
        memory = found["peak"] - self.bare
        return Step(found["seconds"], found["processor_seconds"], found["loss"], memory)


class Sitting:
    """The processes that take turns, and the files they read."""

    def __init__(self, options: argparse.Namespace, shape: Eagle3Config, folder: Path, stack: ExitStack):
        self.options, self.shape, self.folder, self.stack = options, shape, folder, stack
        self.weights = random_weights(shape, options.steps, tied=True)
        self.weights_file = self.weights.write(folder / "weights.safetensors")
        self.machine = self.process("matmuls")  # which runs the products alone
        self.sides = {side: self.taking(side) for side in options.sides}

    def process(self, name: str) -> Side:
        """A new process of this project."""
        command = [sys.executable, str(ROOT / "benchmarks" / "step_sides.py")]
        return self.stack.enter_context(Side(command, dict(os.environ), self.folder / f"{name}.txt"))

    def taking(self, side: str) -> Taking:
        """A side's process with the weights."""
        asked: dict[str, Any] = {"case": str(self.weights_file), "rate": RATE}
        if side == REFERENCE:
            process = self.stack.enter_context(reference_side(self.folder / f"{side}.txt"))
            asked |= {"attention": self.options.attention, "betas": BETAS}
        else:
            process = self.process(side)
            asked |= {"side": side, "optimizer": self.options.optimizer}
        return Taking(process, process.ask("prepare", **asked)["bare"])

    def settings(self) -> Iterator[Setting]:
        """Every pack size and supervised share, the small steps first: a process's memory only grows."""
        first = self.sides[self.options.sides[0]]
        for tokens in sorted(self.options.tokens):
            for supervised in sorted(self.options.supervised):
                rounds = []
                for number in range(-1, self.options.rounds):  # -1 warms up
                    batch, taught = self.batch(tokens, supervised, seed=number + 1)
                    found = self.round(batch)
                    if number >= 0:
                        rounds.append(found)
                        self.say(tokens, taught, number, found)
                if self.options.profile:
                    print(first.process.ask("profile", case=str(batch), rows=self.options.profile)["table"])
                yield Setting(tuple(self.sides), tokens, taught, rounds)

    def batch(self, tokens: int, supervised: float, seed: int) -> tuple[Path, float]:
        """Write the batch of a round; returns its file and the share of tokens taught in it."""
        # Where a prompt is shorter than the unroll the reference teaches across documents, and losses differ.
        lengths = documents(tokens, supervised, seed, shortest_prompt=self.options.steps + 1)
        batch = random_batch(self.shape, lengths, seed)
        case = self.weights._replace(draft={}, verifier={}, batch=batch)
        return case.write(self.folder / "batch.safetensors"), batch["supervised"].float().mean().item()

    def round(self, batch: Path) -> Round:
        """One step of each side on the same batch."""
        first = self.sides[self.options.sides[0]]
        products = first.process.ask("products", case=str(batch))["products"]
        steps = {name: side.step(batch) for name, side in self.sides.items()}
        alone = self.machine.ask("replay", products=products)
        return Round(steps, alone["seconds"], alone["operations"])

    @staticmethod
    def say(tokens: int, taught: float, number: int, found: Round) -> None:
        speeds = [f"{side} {tokens / step.seconds:.0f}" for side, step in found.steps.items()]
        text = f"{tokens} tokens, {taught:.2f} taught, round {number + 1}: {', '.join(speeds)} tokens/s"
        print(text, file=sys.stderr, flush=True)


def machine() -> str:
    """What the figures are measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else f"{os.cpu_count()} CPUs"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    sides = [*OURS, REFERENCE]
    add("--sides", nargs="+", choices=sides, default=["fast", REFERENCE], help="the first against the others")
    add("--savings", action="store_const", dest="sides", const=SAVINGS, help="all of this trainer's sides")
    add("--shape", choices=SHAPES, default="smollm2-135m", help="of the verifier, which the draft copies")
    add("--draft-vocabulary", type=int, default=8192)
    add("--steps", type=int, default=3, help="K, of the unroll (default 3)")
    add("--tokens", type=int, nargs="+", default=[2048], help="of a pack (default 2048)")
    add("--supervised", type=float, nargs="+", default=[1.0, 0.6, 0.3, 0.1], help="shares of the tokens")
    add("--rounds", type=int, default=5, help="steps of each side that count, after one that does not")
    add("--optimizer", choices=KINDS, default="adamw", help="of this trainer's sides (default adamw)")
    add("--threads", type=int, default=os.cpu_count(), help="of each process; they never run at once")
    add("--attention", choices=["sdpa", "eager"], default="sdpa", help="of the reference; sdpa is faster")
    add("--profile", type=int, default=0, metavar="N", help="print the first side's N dearest operators")
    add("--json", type=Path, help="write every round's figures to this file")
    options = parser.parse_args()
    if REFERENCE in options.sides and options.optimizer != "adamw":
        parser.error("--optimizer: the reference has AdamW here, so name other --sides")
    return options


def main() -> None:
    options = arguments()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    shape = replace(SHAPES[options.shape], draft_vocab_size=options.draft_vocabulary)
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="train-step-") as folder, ExitStack() as stack:
        try:
            settings = list(Sitting(options, shape, Path(folder), stack).settings())
        except UnavailableError as error:
            sys.exit(f"the reference cannot be had here: {error}\n--sides fast oracle needs no reference")
    load = f"{before:.1f} before, {os.getloadavg()[0]:.1f} after"
    words = f"{options.shape} shapes, K={options.steps}, draft vocabulary {options.draft_vocabulary}"
    words = f"{words}, float32, {options.optimizer}"
    print(f"{words}; {options.rounds} rounds, {options.threads} threads of {machine()}, load {load}")
    print(table(settings))
    if options.json:
        facts = {"machine": machine(), "load": load, "setting": words, "threads": options.threads}
        document = {**facts, "settings": [one.document() for one in settings]}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if (drift := max(one.drift for one in settings)) > SAME_LOSS:
        sys.exit(f"the losses of the sides differ by up to {drift:.1e}")


if __name__ == "__main__":
    main()
