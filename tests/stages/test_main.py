"""The inside of an executor: what a stage finds, leaves and says when it fails."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from speculators.documents import read_json, write_json
from speculators.errors import EXIT_INTERRUPTED, MachineError, StageError
from speculators.stages.__main__ import main
from speculators.stages.documents import ERROR_NAME, OUTPUT_NAME, StageInput


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """One attempt at a stage whose work is the given function, always into the same output folder."""

    def run(work: Callable[[StageInput], dict[str, Any]], *, continues: bool = False) -> int:
        module = ModuleType("speculators.stages.example")
        vars(module).update(run=work, CONTINUES=continues)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        write_json(tmp_path / "input.json", StageInput("example", {}, {}, {}, tmp_path / "out").document())
        return main(str(tmp_path / "input.json"))

    return run


def first_half(step: StageInput) -> dict[str, Any]:
    (step.output / "half").write_text("1")
    step.work.mkdir(exist_ok=True)
    (step.work / "state").write_text("where I am")
    raise StageError("the machine says no", hint="ask again", rule="no")


def names(step: StageInput) -> dict[str, Any]:
    return {"found": sorted(path.name for path in step.output.iterdir())}


def test_a_failed_attempt_says_why_in_a_document(attempt: Callable[..., int], tmp_path: Path):
    assert attempt(first_half) == StageError.exit_code
    assert read_json(tmp_path / "out" / ERROR_NAME) == {
        "rule": "no",
        "message": "the machine says no",
        "hint": "ask again",
    }


def test_a_stage_that_does_not_continue_finds_an_empty_folder(attempt: Callable[..., int], tmp_path: Path):
    attempt(first_half)
    assert attempt(names) == 0
    assert read_json(tmp_path / "out" / OUTPUT_NAME)["result"] == {"found": []}


def test_a_stage_that_continues_finds_its_work_but_no_verdict(attempt: Callable[..., int], tmp_path: Path):
    attempt(first_half)
    assert attempt(names, continues=True) == 0
    assert read_json(tmp_path / "out" / OUTPUT_NAME)["result"] == {"found": ["half", "work"]}


def test_work_is_no_part_of_the_output(attempt: Callable[..., int], tmp_path: Path):
    attempt(first_half, continues=True)
    attempt(names, continues=True)
    assert sorted(read_json(tmp_path / "out" / OUTPUT_NAME)["files"]) == ["half"]
    assert not (tmp_path / "out" / "work").exists()


def test_an_interrupted_attempt_ends_without_a_verdict_and_keeps_its_work(
    attempt: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def interrupted(step: StageInput) -> dict[str, Any]:
        step.work.mkdir()
        raise KeyboardInterrupt

    assert attempt(interrupted, continues=True) == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["work"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "shard.safetensors"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
    ids=["Python", "a library in another language"],
)
def test_a_full_disk_is_the_machines_fault(attempt: Callable[..., int], tmp_path: Path, error: Exception):
    def full(step: StageInput) -> dict[str, Any]:
        raise error

    assert attempt(full) == MachineError.exit_code
    said = read_json(tmp_path / "out" / ERROR_NAME)
    assert said["rule"] == "storage"
    assert "No space left on device" in said["message"]


def test_a_bug_keeps_its_traceback(attempt: Callable[..., int]):
    def bug(step: StageInput) -> dict[str, Any]:
        raise KeyError("stall_timeout")

    with pytest.raises(KeyError):
        attempt(bug)
