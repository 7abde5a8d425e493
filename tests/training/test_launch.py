"""Ranks in processes of their own: what they return, what they fail of, and that none is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from speculators.errors import MachineError, StageError
from speculators.executors.supervise import started
from speculators.training.launch import launch
from tests.training.processes import count_together, second_fails, wait_for_ever


def test_ranks_meet_and_the_first_one_answers(tmp_path: Path) -> None:
    result = launch(count_together, 10, 2, tmp_path)
    assert result["sum"] == 10 + 11
    assert len(set(result["pids"])) == 2
    assert not [pid for pid in result["pids"] if started(pid)]


def test_a_killed_rank_is_named_with_its_signal(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="rank 1 of 2 was killed by SIGKILL"):
        launch(second_fails, "killed", 2, tmp_path)


def test_an_error_of_a_rank_is_the_error_of_all(tmp_path: Path) -> None:
    with pytest.raises(MachineError) as caught:
        launch(second_fails, "machine", 2, tmp_path)
    assert (caught.value.message, caught.value.hint, caught.value.rule) == ("no room", "make some", "room")


def test_a_bug_in_a_rank_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)rank 1 of 2.*ZeroDivisionError: a bug of ours"):
        launch(second_fails, "bug", 2, tmp_path)


def test_ranks_that_hang_are_ended_at_the_deadline(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(StageError, match="no answer in 2 s") as caught:
        launch(wait_for_ever, tmp_path / "note", 2, tmp_path, seconds=2)
    assert caught.value.rule == "overdue"
    assert multiprocessing.active_children() == []
    assert time.monotonic() - begun < 60


def test_an_interrupt_of_the_caller_ends_the_ranks(tmp_path: Path) -> None:
    note = tmp_path / "note"

    def interrupt() -> None:
        while not note.exists() or not note.read_text():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        launch(wait_for_ever, note, 2, tmp_path)
    watcher.join()
    assert not started(int(note.read_text()))
