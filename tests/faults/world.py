"""A tiny recipe and a store of its own, with every process that belongs to them marked.

The engine, the trainer, the servers and GuideLLM are the real ones; only the verifier is tiny, so that
a whole run takes minutes and a hundred of them can be disturbed.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from speculators.documents import read_json
from speculators.pipeline.store import KEY_NAME, Store
from speculators.recipe.yaml_writer import dump_yaml
from speculators.stages.documents import OUTPUT_NAME, damaged_files, read_output
from tests.models.words import ALGORITHM, ENGINE_ARGS, ENGINE_ENV, WORDS, write_words_model

MARK = "SPECULATORS_FAULTS"
BUILD = ("verifier", "prompts", "responses", "hidden_states", "training", "package")
BENCHMARK = "benchmark"


class World(NamedTuple):
    """One recipe with a home and a folder for runs."""

    folder: Path
    rounds: int

    @property
    def recipe(self) -> Path:
        return self.folder / "faults.yaml"

    @property
    def store(self) -> Store:
        return Store(self.folder / "home")

    def start(self, *options: str) -> subprocess.Popen[str]:
        """``speculators run`` of the recipe; its story comes from ``stderr``."""
        command = [sys.executable, "-m", "speculators", "run", self.recipe.name, "--progress", "plain"]
        return subprocess.Popen(
            [*command, *options],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        home = str(self.folder / "home")
        return {**os.environ, "PYTHONPATH": path, "SPECULATORS_HOME": home, MARK: str(self.folder)}


def write_world(folder: Path, rounds: int) -> World:
    """A fresh world in ``folder``."""
    folder.mkdir(parents=True)
    write_words_model(folder / "model")
    draw = random.Random(0)
    write_prompts(folder / "train.jsonl", draw, 72)
    write_prompts(folder / "benchmark.jsonl", draw, 6)
    world = World(folder, rounds)
    world.recipe.write_text(dump_yaml(recipe(rounds)), encoding="utf-8")
    return world


def write_prompts(path: Path, draw: random.Random, count: int) -> None:
    rows = [
        {"id": f"{path.stem}-{n}", "topic": f"topic-{n % 8}", "prompt": " ".join(draw.choices(WORDS, k=12))}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def recipe(rounds: int) -> dict[str, Any]:
    return {
        "schema": "speculators/recipe/v1",
        "name": "faults",
        "verifier": {"path": "model"},
        "algorithm": {"kind": "eagle3", **ALGORITHM},
        "datagen": {
            "prompts": {"files": ["train.jsonl"], "validation_fraction": 0.2},
            "max_tokens": 24,
            "rows_per_shard": 12,
        },
        "training": {"sequence_length": 128, "epochs": 6, "learning_rate": 1e-3},
        "benchmark": {
            "prompts": "benchmark.jsonl",
            "requests": 6,
            "max_tokens": 16,
            "concurrency": [1],
            "rounds": rounds,
            "warmup_requests": 1,
            "extra_arms": [],  # each is a launch more in every round, and is disturbed like the others
        },
        "engine": {"args": ENGINE_ARGS, "env": ENGINE_ENV, "stall_timeout": 200},
        "executor": "local",
    }


def contents(world: World) -> dict[str, dict[str, str]]:
    """Digest of every file of the finished outputs, by stage: shards, metrics, checkpoint."""
    found = {}
    for stage in BUILD:
        (kept,) = world.store.history(stage)
        found[stage] = {name: entry["sha256"] for name, entry in read_output(kept.path)["files"].items()}
    return found


def texts(world: World) -> dict[str, str]:
    """What every prompt was answered, by round, arm, concurrency and prompt."""
    benchmark = read_json(world.folder / "runs" / "faults" / "latest" / "bench" / OUTPUT_NAME)["result"]
    return {
        f"{one['round']}/{one['arm']}/{one['concurrency']}/{row['id']}": row["text_sha256"]
        for one in benchmark["samples"]
        for row in one["requests"]
    }


def untrustworthy(world: World) -> list[str]:
    """Outputs in the store that look finished and are not whole."""
    found = []
    for output in sorted(world.store.root.glob("*/*")):
        if output.is_symlink() or not output.is_dir() or "." in output.name:
            continue
        if not (output / KEY_NAME).is_file() or damaged_files(output, read_output(output)):
            found.append(str(output.relative_to(world.store.root)))
    return found
