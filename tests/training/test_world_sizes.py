"""A run goes on at another number of ranks, as it would have gone on at its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from speculators.documents import read_json, write_json
from speculators.errors import EXIT_INTERRUPTED
from speculators.stages.documents import OUTPUT_NAME, StageInput
from speculators.training.files import DRAFT_NAME, METRICS_NAME
from speculators.training.loop import TrainingOptions, train
from speculators.training.ranks import ALONE, Ranks
from speculators.training.resume import Checkpoints
from speculators.training.validation import prepare
from tests.models import tiny
from tests.training.processes import together

OPTIONS = TrainingOptions(
    sequence_length=16, sequences_per_step=4, epochs=2, learning_rate=1e-2, weight_decay=0.01,
    warmup_fraction=0.1, gradient_clip=1.0, step_decay=0.9, ttt_steps=2, speculative_tokens=2, seed=0,
    validations_per_epoch=2,
)  # fmt: skip
DOCUMENTS = [tiny.document(10 + seed % 5, 4, seed) for seed in range(10)]
HELD_OUT = [tiny.document(14, 4, 100 + seed, split="validation") for seed in range(3)]


def attempt(ranks: Ranks, folder: Path, parallelism: str, optimizer: str, stop_at: int) -> list[str]:
    """Train in ``folder`` until place ``stop_at``, which only the last rank is told of; what was said."""
    taught = tiny.objective(tiny.draft(dtype=torch.float32), 2, OPTIONS.step_decay, torch.float32)
    lines: list[str] = []
    asked = 0

    def interrupted() -> bool:
        nonlocal asked
        asked += 1
        return asked == stop_at and ranks.index == ranks.count - 1

    options = replace(OPTIONS, optimizer=optimizer)
    held_out, checkpoints = prepare(taught.verifier, HELD_OUT, 16), Checkpoints(folder / "work")
    arguments = (taught, DOCUMENTS, held_out, options, folder, checkpoints, lines.append, interrupted)
    try:
        train(*arguments, ranks, parallelism)
    except KeyboardInterrupt:
        assert stop_at
    return lines


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / METRICS_NAME).read_text().splitlines()]
    return [row["loss"] if row["kind"] == "step" else row["validation"]["drafts"] for row in rows]


@pytest.mark.parametrize(
    ("parallelism", "optimizer", "sizes"),
    [("fsdp", "adamw", (3, 1, 2)), ("ddp", "muon", (2, 1, 3))],
    ids=["fsdp-adamw", "ddp-muon"],
)
def test_a_run_continues_at_another_world_size(tmp_path: Path, parallelism, optimizer, sizes) -> None:
    alone, moved = tmp_path / "alone", tmp_path / "moved"
    for folder in (alone, moved):
        folder.mkdir()
    attempt(ALONE, alone, parallelism, optimizer, 0)
    for number, (size, stop_at) in enumerate(zip(sizes, (3, 4, 0))):
        notes = tmp_path / f"notes-{number}"
        said = together(size, notes, attempt, moved, parallelism, optimizer, stop_at)
        if number:
            assert "losses may differ in their last digits" in said[0][0]
            assert said[0][1].startswith("continuing from step")
    assert losses(moved) == pytest.approx(losses(alone), rel=1e-5)
    expected, found = load_file(alone / DRAFT_NAME), load_file(moved / DRAFT_NAME)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert (found[name] - tensor).norm() <= 1e-4 * tensor.norm(), name


def test_a_stage_on_two_devices_is_interrupted_and_continues_under_torchrun(tmp_path: Path) -> None:
    world = tiny.write_world(tmp_path / "world")
    output, documents = tmp_path / "output", {}
    for name, changes in {"two": {"devices": 2}, "auto": {}}.items():
        training = {**tiny.TRAINING, "epochs": 30, "sequences_per_step": 2, **changes}
        values = {"algorithm": tiny.ALGORITHM, "training": training}
        documents[name] = tmp_path / f"{name}.json"
        write_json(documents[name], StageInput("training", values, world, {}, output).document())
    process = subprocess.Popen(
        [sys.executable, "-m", "speculators.stages", str(documents["two"])],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    seen = ""
    try:
        for line in process.stdout:
            seen += line
            if line.startswith("epoch 3/"):
                process.send_signal(signal.SIGTERM)
                break
        seen += process.stdout.read()
        assert process.wait(timeout=120) == EXIT_INTERRUPTED, seen
    finally:
        process.kill()
    assert seen.count("training 0.0M parameters on cpu with 1 threads in each of 2 processes") == 1
    assert seen.count("; checkpoint written") == 1
    again = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    again += ["--local-addr", "127.0.0.1", "-m", "speculators.stages", str(documents["auto"])]
    subprocess.run(again, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=300)
    result = read_json(output / OUTPUT_NAME)["result"]
    assert (result["devices"], result["epochs"]) == (2, 30)
    assert not (output / "work").exists()
    rows = [json.loads(line) for line in (output / METRICS_NAME).read_text().splitlines()]
    steps = [row["step"] for row in rows if row["kind"] == "step"]
    assert steps == list(range(1, result["optimiser_steps"] + 1))
