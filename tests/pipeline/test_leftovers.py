"""What interrupted runs leave: real stores, real locks held by other processes, real orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from speculators.executors.base import Service
from speculators.executors.local import LocalExecutor
from speculators.pipeline.machine import leftovers, orphans
from speculators.pipeline.store import Store

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@contextmanager
def locked(store: Store, stage: str, key: str) -> Iterator[None]:
    lock = store.lock(stage, key)
    lock.take(alone=True)
    yield
    lock.close()


def interrupt(store: Store, stage: str, key: str) -> Path:
    """Leave what a stage leaves that dies while it fills its output."""
    with suppress(ZeroDivisionError), locked(store, stage, key), store.filling(stage, key) as partial:
        (partial / "shard.safetensors").write_bytes(b"0" * 1500)
        raise ZeroDivisionError
    return partial


@pytest.fixture
def other_run(store: Store) -> Iterator[Callable[[str, str], None]]:
    """Start a process that holds a key as a run does."""
    started: list[subprocess.Popen[str]] = []

    def hold(stage: str, key: str) -> None:
        program = f"""
            from pathlib import Path
            from speculators.pipeline.store import Store
            lock = Store(Path({str(store.root.parent)!r})).lock({stage!r}, {key!r})
            lock.take(alone=True)
            print("held", flush=True)
            input()
        """
        command = [sys.executable, "-c", textwrap.dedent(program)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == "held\n"

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def age(path: Path, hours: float) -> None:
    then = time.time() - hours * 3600
    os.utime(path, (then, then))


def test_an_unfinished_output_that_nobody_holds_is_listed_with_its_size(store: Store):
    interrupt(store, "hidden_states", KEY)
    (found,) = leftovers.leftover_findings(store.root)
    assert found.state == "warning"
    assert f"hidden_states/{KEY}.partial (1.5 kB)" in found.detail
    assert "doctor --clean" in found.mend


def test_an_output_that_another_run_is_filling_is_left_alone(
    store: Store, other_run: Callable[[str, str], None]
):
    partial = interrupt(store, "hidden_states", KEY)
    other_run("hidden_states", KEY)
    assert [found.state for found in leftovers.leftover_findings(store.root)] == ["ok"]
    assert leftovers.clean(store.root) == []
    assert (partial / "shard.safetensors").is_file()


def test_a_run_that_takes_an_output_up_between_the_look_and_the_removal_keeps_it(
    store: Store, other_run: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
):
    partial = interrupt(store, "training", KEY)
    seen = leftovers.stale_partials(store.root)
    other_run("training", KEY)
    monkeypatch.setattr(leftovers, "stale_partials", lambda root: seen)
    (found,) = leftovers.clean(store.root)
    assert found.detail.startswith("kept ")
    assert partial.is_dir()


def test_cleaning_removes_what_is_unfinished_and_nothing_else(store: Store):
    interrupt(store, "training", KEY)
    with store.filling("verifier", KEY) as finished:
        (finished / "model").write_text("whole")
    (found,) = leftovers.clean(store.root)
    assert found.detail == f"removed training/{KEY}.partial (1.5 kB); that stage starts over"
    assert [path.name for path in store.root.glob("*/*") if path.is_dir()] == [KEY]
    assert (store.path("verifier", KEY) / "model").read_text() == "whole"


def test_only_lock_files_that_are_old_and_free_are_removed(
    store: Store, other_run: Callable[[str, str], None]
):
    old, fresh, held = "a" * 32, "b" * 32, "c" * 32
    for key in (old, fresh):
        with locked(store, "training", key):
            pass
    other_run("training", held)
    for key in (old, held):
        age(store.root / "training" / f"{key}.lock", hours=2)
    (found,) = leftovers.clean(store.root)
    assert found.detail == "removed 1 old lock file"
    assert sorted(path.stem for path in store.root.glob("*/*.lock")) == [fresh, held]


def test_an_output_whose_replacement_was_cut_short_is_removed_too(store: Store):
    replaced = store.root / "training" / f"{KEY}.replaced-17"
    replaced.mkdir(parents=True)
    (found,) = leftovers.clean(store.root)
    assert found.detail.startswith(f"removed training/{KEY}.replaced-17")
    assert not replaced.exists()


def test_looking_changes_nothing(store: Store):
    partial = interrupt(store, "training", KEY)
    (store.root / "training" / f"{KEY}.lock").unlink()
    before = sorted(store.root.rglob("*"))
    assert len(leftovers.stale_partials(store.root)) == 1
    assert sorted(store.root.rglob("*")) == before
    assert partial.is_dir()


def test_a_store_that_is_not_there_holds_nothing(tmp_path: Path):
    assert [found.state for found in leftovers.leftover_findings(tmp_path / "none")] == ["ok"]
    assert leftovers.clean(tmp_path / "none") == []


#: A runner that serves, and has forked a process which inherits the supervisor's standard input: with
#: the runner killed, that end of the pipe stays open and the supervisor stays too.
RUNNER = """
    import os, sys, time
    from pathlib import Path
    from speculators.executors.base import Service
    from speculators.executors.local import LocalExecutor
    argv = [sys.executable, "-c", "import time; time.sleep(600)", "the-server"]
    with LocalExecutor().serve(Service("orphan", lambda _: argv, {}, Path(sys.argv[1]))):
        holder = os.fork()
        if holder == 0:
            os.close(1)
            time.sleep(600)
        print(holder, flush=True)
        time.sleep(600)
"""


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", textwrap.dedent(RUNNER), str(tmp_path / "log")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    holder = int(process.stdout.readline())
    yield process
    process.kill()
    process.communicate()
    os.kill(holder, signal.SIGKILL)  # the supervisor ends with it, if it has not ended yet


def supervisor_of(process: int) -> int:
    (found,) = (
        child for child, parent in orphans.supervise.parents().items() if parent == process and is_one(child)
    )
    return found


def is_one(process: int) -> bool:
    return orphans._is_supervisor(orphans._words(process))


def family_of(supervisor: int) -> list[int]:
    deadline = time.monotonic() + 20
    while not (family := orphans.supervise.descendants(supervisor)):
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.05)
    return family


def left(supervisor: int) -> list[orphans.Orphan]:
    """The orphan of this test; other people's are none of its business."""
    return [orphan for orphan in orphans.orphans() if orphan.process == supervisor]


def test_a_supervisor_whose_runner_lives_is_no_orphan(runner: subprocess.Popen[str], tmp_path: Path):
    assert left(supervisor_of(runner.pid)) == []
    argv = [sys.executable, "-c", "import time; time.sleep(600)"]
    here = Service("mine", lambda _: argv, {}, tmp_path / "here")
    with LocalExecutor().serve(here):
        assert left(supervisor_of(os.getpid())) == []


def test_a_supervisor_whose_runner_was_killed_is_found_and_ended_with_its_server(
    runner: subprocess.Popen[str],
):
    supervisor = supervisor_of(runner.pid)
    family = family_of(supervisor)
    runner.kill()
    runner.wait()
    (orphan,) = left(supervisor)
    assert "the-server" in orphan.command
    assert orphans.end(orphan)
    assert not {supervisor, *family} & set(orphans.supervise.parents())


def test_a_supervisor_that_does_not_answer_is_killed_with_its_server(
    runner: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
):
    supervisor = supervisor_of(runner.pid)
    family = family_of(supervisor)
    os.kill(supervisor, signal.SIGSTOP)
    runner.kill()
    runner.wait()
    monkeypatch.setattr(orphans, "STOP_SECONDS", 1.0)
    (orphan,) = left(supervisor)
    assert orphans.end(orphan)
    assert not {supervisor, *family} & set(orphans.supervise.parents())


def test_a_later_process_with_the_same_number_is_spared():
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        assert orphans.end(orphans.Orphan(bystander.pid, started=1, command="gone"))
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
