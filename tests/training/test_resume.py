"""An interrupted training ends in the same bytes as an undisturbed one, wherever it was interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from speculators.documents import read_json, write_json
from speculators.errors import EXIT_INTERRUPTED
from speculators.stages.__main__ import main
from speculators.stages.documents import ERROR_NAME, OUTPUT_NAME, StageInput
from speculators.training import resume
from speculators.training.files import DRAFT_NAME, METRICS_NAME
from speculators.training.interrupts import deferred_interrupts
from speculators.training.loop import Trained, TrainingOptions, train
from speculators.training.optimiser import KINDS
from speculators.training.resume import PARTIAL, PREFIX, Checkpoints
from speculators.training.validation import prepare
from tests.models import tiny

OPTIONS = TrainingOptions(
    sequence_length=32, sequences_per_step=2, epochs=3, learning_rate=1e-2, weight_decay=0.01,
    warmup_fraction=0.1, gradient_clip=1.0, step_decay=0.9, ttt_steps=2, speculative_tokens=2, seed=0,
)  # fmt: skip
DOCUMENTS = [tiny.document(10 + seed % 5, 4, seed) for seed in range(8)]
HELD_OUT = [tiny.document(14, 4, 100 + seed, split="validation") for seed in range(2)]
WINDOWS = 2  # of an epoch
PLACES = OPTIONS.epochs * (WINDOWS + 1)  # where the loop can stop: after each window and each epoch


class Killed(BaseException):
    """Nothing in the package catches this, as nothing catches SIGKILL."""


class Attempt:
    """One attempt at the same training in the same folder, as a new process would make it."""

    def __init__(
        self, folder: Path, options: TrainingOptions = OPTIONS, every_window: bool = True, **changes: bool
    ) -> None:
        self.folder, self.options, self.shape = folder, options, tiny.config(**changes)
        folder.mkdir(exist_ok=True)
        pace = {"at_least": 0.0, "times_write": 0.0} if every_window else {}
        self.checkpoints = Checkpoints(folder / "work", **pace)
        self.documents = DOCUMENTS
        self.lines: list[str] = []
        self.asked = 0

    def run(self, stop_at: int = -1, kill_at: int = -1, kill_on_line: str = "never") -> Trained:
        """Train; at place ``kill_at`` (0-based) die before its checkpoint, at ``stop_at`` after it."""

        def say(line: str) -> None:
            self.lines.append(line)
            if line.startswith(kill_on_line):
                raise Killed

        def interrupted() -> bool:
            self.asked += 1
            torch.rand(1)  # the loop draws nothing today; what a later one draws must go on as well
            if self.asked - 1 == kill_at:
                raise Killed
            return self.asked - 1 == stop_at

        options = self.options
        model = tiny.draft(self.shape, dtype=torch.float32)
        taught = tiny.objective(model, options.ttt_steps, options.step_decay, torch.float32)
        held_out = prepare(taught.verifier, HELD_OUT, 32)
        return train(
            taught, self.documents, held_out, options, self.folder, self.checkpoints, say, interrupted
        )


def product(folder: Path) -> tuple[bytes, bytes]:
    """What later stages and readers see of a training."""
    assert sorted(path.name for path in folder.iterdir()) == [DRAFT_NAME, METRICS_NAME, "work"]
    return (folder / METRICS_NAME).read_bytes(), (folder / DRAFT_NAME).read_bytes()


def without_time(trained: Trained) -> Trained:
    return trained._replace(training_seconds=0.0)


def found(folder: Path) -> list[Path]:
    return sorted((folder / "work").glob(PREFIX + "*"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[tuple[bytes, bytes], Trained]:
    attempt = Attempt(tmp_path_factory.mktemp("undisturbed"), every_window=False)
    trained = attempt.run()
    assert attempt.asked == PLACES
    return product(attempt.folder), without_time(trained)


@pytest.mark.parametrize("every_window", [True, False], ids=["every-window", "every-epoch"])
@pytest.mark.parametrize("place", range(PLACES))
def test_a_training_killed_anywhere_ends_in_the_same_bytes(
    undisturbed, tmp_path: Path, place: int, every_window: bool
) -> None:
    with pytest.raises(Killed):
        Attempt(tmp_path, every_window=every_window).run(kill_at=place)
    second = Attempt(tmp_path, every_window=every_window)
    trained = second.run()
    assert (product(tmp_path), without_time(trained)) == undisturbed
    if every_window:
        assert second.asked == PLACES - place  # nothing was done again but what had no checkpoint yet


@pytest.mark.parametrize("place", range(PLACES))
def test_a_training_told_to_end_writes_where_it_is_and_continues_there(
    undisturbed, tmp_path: Path, place: int
) -> None:
    epochs, windows = divmod(place + 1, WINDOWS + 1)
    step = epochs * WINDOWS + windows
    first, second = Attempt(tmp_path, every_window=False), Attempt(tmp_path, every_window=False)
    with pytest.raises(KeyboardInterrupt):
        first.run(stop_at=place)
    assert first.lines[-1] == f"interrupted at step {step} of 6; checkpoint written"
    trained = second.run()
    assert second.lines[0] == f"continuing from step {step} of 6 (epoch {min(epochs + 1, 3)})"
    assert second.asked == PLACES - place - 1
    assert (product(tmp_path), without_time(trained)) == undisturbed


def test_a_training_interrupted_at_every_window_ends_in_the_same_bytes(undisturbed, tmp_path: Path) -> None:
    for _ in range(PLACES):
        with pytest.raises(KeyboardInterrupt):
            Attempt(tmp_path).run(stop_at=0)
    assert without_time(Attempt(tmp_path).run()) == undisturbed[1]
    assert product(tmp_path) == undisturbed[0]


@pytest.mark.parametrize("optimizer", sorted(KINDS))
def test_every_practice_continues_to_the_same_bytes(tmp_path: Path, optimizer: str) -> None:
    options = replace(
        OPTIONS, optimizer=optimizer, schedule="linear", validations_per_epoch=2, early_stop=3, epochs=4
    )
    whole = Attempt(tmp_path / "whole", options)
    expected = whole.run()
    for _ in range(whole.asked):
        with pytest.raises(KeyboardInterrupt):
            Attempt(tmp_path / "parts", options).run(stop_at=0)
    assert without_time(Attempt(tmp_path / "parts", options).run()) == without_time(expected)
    assert product(tmp_path / "parts") == product(tmp_path / "whole")


def test_an_export_newer_than_the_checkpoint_is_put_back(undisturbed, tmp_path: Path) -> None:
    with pytest.raises(Killed):  # after the second epoch's export and metrics, before its checkpoint
        Attempt(tmp_path, every_window=False).run(kill_on_line="epoch 2")
    (checkpoint,) = found(tmp_path)
    (tmp_path / DRAFT_NAME).unlink()
    (tmp_path / DRAFT_NAME).write_bytes(b"an epoch that may not be the best when done again")
    (tmp_path / (DRAFT_NAME + PARTIAL)).write_bytes(b"and half of another")
    with pytest.raises(KeyboardInterrupt):
        Attempt(tmp_path).run(stop_at=0)
    assert (tmp_path / DRAFT_NAME).read_bytes() == (found(tmp_path)[0] / DRAFT_NAME).read_bytes()
    assert checkpoint != found(tmp_path)[0]
    assert without_time(Attempt(tmp_path).run()) == undisturbed[1]
    assert product(tmp_path) == undisturbed[0]


def test_files_of_an_attempt_without_a_checkpoint_are_not_taken_for_ours(undisturbed, tmp_path: Path) -> None:
    for name in (METRICS_NAME, DRAFT_NAME):
        (tmp_path / name).write_bytes(b"left over")
    attempt = Attempt(tmp_path)
    assert without_time(attempt.run()) == undisturbed[1]
    assert attempt.lines[0].startswith("dry step")
    assert attempt.lines[1].startswith("step 1/6")
    assert product(tmp_path) == undisturbed[0]


STEPS_OF_WRITING = ["save_file", "_link", "file_digest", "write_json", "_sync", "_clear"]


@pytest.mark.parametrize("call", [1, 2, 3, 4])
@pytest.mark.parametrize("name", STEPS_OF_WRITING)
def test_a_kill_while_a_checkpoint_is_written_leaves_a_whole_one(
    undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        Attempt(tmp_path).run(stop_at=WINDOWS)  # the first epoch's end
    real, calls = getattr(resume, name), 0
    attempt = Attempt(tmp_path)

    def deadly(*arguments: Any) -> Any:
        nonlocal calls
        calls += bool(attempt.asked)  # reading comes before the first window
        if calls == call:
            raise Killed
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(resume, name, deadly)
        with pytest.raises(Killed):
            attempt.run()
    last = Attempt(tmp_path)
    trained = last.run()
    assert last.lines[0].startswith("continuing from step")
    assert (product(tmp_path), without_time(trained)) == undisturbed
    assert len(found(tmp_path)) == 1  # no half-written one either


@pytest.mark.parametrize(
    "name", ["state.safetensors", "metrics.jsonl", "draft.safetensors", "checkpoint.json"]
)
def test_a_flipped_byte_is_named_and_training_starts_over(undisturbed, tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        Attempt(tmp_path).run(stop_at=WINDOWS + 1)
    (checkpoint,) = found(tmp_path)
    content = bytearray((checkpoint / name).read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint / name).write_bytes(content)
    attempt = Attempt(tmp_path)
    assert without_time(attempt.run()) == undisturbed[1]
    assert str(checkpoint) in attempt.lines[0]
    assert attempt.lines[1] == "no checkpoint is left to continue from: training starts over"
    assert product(tmp_path) == undisturbed[0]


def test_every_changed_value_of_the_document_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Attempt(tmp_path).run(stop_at=0)
    (checkpoint,) = found(tmp_path)
    document = read_json(checkpoint / "checkpoint.json")
    document["checkpoint"]["reached"]["tokens"] += 1
    write_json(checkpoint / "checkpoint.json", document)
    with pytest.raises(ValueError, match=r"checkpoint\.json is damaged"):
        resume.read_sound(checkpoint, "")


def test_the_checkpoint_before_a_damaged_one_is_used(undisturbed, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Attempt(tmp_path).run(stop_at=0)
    shutil.copytree(found(tmp_path)[0], tmp_path / "kept")
    with pytest.raises(KeyboardInterrupt):
        Attempt(tmp_path).run(stop_at=0)
    (newer,) = found(tmp_path)
    older = newer.with_name(f"{PREFIX}00000001-0000")
    (tmp_path / "kept").rename(older)  # as after a kill between writing one and removing the other
    (newer / "state.safetensors").unlink()
    attempt = Attempt(tmp_path)
    assert without_time(attempt.run()) == undisturbed[1]
    assert attempt.lines[0].startswith(f"{newer} is not used")
    assert attempt.lines[1] == "continuing from step 1 of 6 (epoch 1)"
    assert product(tmp_path) == undisturbed[0]


def test_a_checkpoint_of_other_options_is_not_continued(undisturbed, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Attempt(tmp_path, replace(OPTIONS, learning_rate=1e-3)).run(stop_at=1)
    attempt = Attempt(tmp_path)
    assert without_time(attempt.run()) == undisturbed[1]
    assert "made from other options or documents" in attempt.lines[0]
    assert product(tmp_path) == undisturbed[0]


def test_a_checkpoint_of_a_draft_with_other_flags_is_not_continued(undisturbed, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Attempt(tmp_path, norm_output=not tiny.CONFIG.norm_output).run(stop_at=1)
    attempt = Attempt(tmp_path)
    assert without_time(attempt.run()) == undisturbed[1]
    assert "made from other options or documents" in attempt.lines[0]


@pytest.mark.parametrize("part", ["token_ids", "prompt_tokens", "hidden_states"])
def test_a_checkpoint_of_documents_of_other_content_is_not_continued(
    undisturbed, tmp_path: Path, part: str
) -> None:
    first, *others = DOCUMENTS
    other = Attempt(tmp_path)
    other.documents = [first._replace(**{part: getattr(first, part) + 1}), *others]
    with pytest.raises(KeyboardInterrupt):
        other.run(stop_at=1)
    attempt = Attempt(tmp_path)
    assert without_time(attempt.run()) == undisturbed[1]
    assert "made from other options or documents" in attempt.lines[0]


def test_another_thread_count_is_warned_of(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Attempt(tmp_path).run(stop_at=0)
    attempt = Attempt(tmp_path)
    torch.set_num_threads(2)
    try:
        attempt.run()
    finally:
        torch.set_num_threads(1)
    assert attempt.lines[0].startswith(
        "warning: the checkpoint was computed with 1 threads on cpu, this process has 2 threads on cpu"
    )


def test_the_generators_go_on_where_they_were(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Attempt(tmp_path).run(stop_at=0)
    expected = torch.rand(3)
    torch.manual_seed(99)
    with pytest.raises(Killed):
        Attempt(tmp_path).run(kill_on_line="continuing")
    assert torch.equal(torch.rand(3), expected)


def test_the_time_of_an_interrupted_attempt_counts(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Attempt(tmp_path).run(stop_at=PLACES - 2)
    (checkpoint,) = found(tmp_path)
    before = read_json(checkpoint / "checkpoint.json")["checkpoint"]["reached"]["seconds"]
    trained = Attempt(tmp_path).run()
    assert before > 0
    assert trained.training_seconds >= before


def test_writing_costs_at_most_a_thirtieth_within_an_epoch(tmp_path: Path, monkeypatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(resume.time, "monotonic", lambda: clock[0])
    checkpoints = Checkpoints(tmp_path)

    def due_after(seconds: float) -> bool:
        clock[0] = 1000.0 + seconds
        return checkpoints.due()

    assert [due_after(seconds) for seconds in (59, 60)] == [False, True]
    checkpoints.written, checkpoints.write_seconds = 1000.0, 10.0
    assert [due_after(seconds) for seconds in (60, 299, 300)] == [False, False, True]


def test_a_signal_is_noted_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with deferred_interrupts() as interrupted:
        assert not interrupted()
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert interrupted()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


# The stage as a process of its own, ended by real signals.

STAGE_EPOCHS = 30
VALUES = {"algorithm": tiny.ALGORITHM, "training": {**tiny.TRAINING, "epochs": STAGE_EPOCHS}}


@pytest.fixture(scope="module")
def stage_input(tmp_path_factory) -> Callable[[Path], Path]:
    world = tiny.write_world(tmp_path_factory.mktemp("world"))

    def write(root: Path) -> Path:
        step = StageInput("training", VALUES, world, {}, root / "output")
        write_json(root / "input.json", step.document())
        return root / "input.json"

    return write


@pytest.fixture(scope="module")
def sealed(stage_input, tmp_path_factory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("sealed")
    assert main(str(stage_input(root))) == 0
    return without_times(read_json(root / "output" / OUTPUT_NAME))


def without_times(document: dict[str, Any]) -> dict[str, Any]:
    timed = ("tokens_per_second", "training_seconds")
    result = {name: value for name, value in document["result"].items() if name not in timed}
    return {"result": result, "files": document["files"]}


def signalled(document: Path, number: signal.Signals, epoch: int) -> tuple[int, str]:
    """Run the stage as a process, send it a signal once ``epoch`` is finished; its exit code and output."""
    process = subprocess.Popen(
        [sys.executable, "-m", "speculators.stages", str(document)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        seen = ""
        for line in process.stdout:
            seen += line
            if line.startswith(f"epoch {epoch}/"):
                time.sleep(0.05)  # into the next epoch, or its first checkpoint: it must not matter
                process.send_signal(number)
                break
        seen += process.stdout.read()
        return process.wait(timeout=60), seen
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stage_ended_by_a_signal_continues_to_the_same_output(
    stage_input, sealed, tmp_path: Path, capsys, number: signal.Signals
) -> None:
    document, output = stage_input(tmp_path), tmp_path / "output"
    code, seen = signalled(document, number, epoch=10)
    assert not (output / OUTPUT_NAME).exists()
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == EXIT_INTERRUPTED
        assert "; checkpoint written\ninterrupted\n" in seen
        assert "Traceback" not in seen
        assert not (output / ERROR_NAME).exists()
    lines_before = len((output / METRICS_NAME).read_text().splitlines())
    assert main(str(document)) == 0
    assert "continuing from step" in capsys.readouterr().out
    assert without_times(read_json(output / OUTPUT_NAME)) == sealed
    rows = [json.loads(line) for line in (output / METRICS_NAME).read_text().splitlines()]
    assert lines_before < len(rows)
    assert not (output / "work").exists()
