"""The cache: what is listed, what goes and why; real stores, locks held by other processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from speculators.bundle.homes import REPEATS, leave, unfinished_home
from speculators.cli import app
from speculators.documents import write_json
from speculators.pipeline import eviction
from speculators.pipeline.build import build
from speculators.pipeline.eviction import Policy, collect, judge
from speculators.pipeline.inventory import Inventory, take_inventory
from speculators.pipeline.store import KEY_NAME, Store
from speculators.stages.documents import OUTPUT_NAME, StageInput, write_output
from speculators.stages.table import VERIFIER
from tests.pipeline.test_run import a_run, leaves

DAY = 86400.0


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SPECULATORS_HOME", str(tmp_path / "home"))
    return Store(tmp_path / "home")


def key_of(letter: str) -> str:
    return letter * 64


def put(store: Store, stage: str, letter: str, days: float = 0.0, size: int = 1000) -> Path:
    """A finished output that was made and last used ``days`` ago."""
    key = key_of(letter)
    with store.filling(stage, key) as folder:
        (folder / "data.bin").write_bytes(b"0" * size)
        write_output(StageInput(stage, {}, {}, {}, folder), {}, seconds=60.0)
        write_json(folder / KEY_NAME, {})
    path = store.path(stage, key)
    use(path, days)
    then = time.time() - days * DAY
    os.utime(path, (then, then))
    return path


def use(path: Path, days: float) -> None:
    then = time.time() - days * DAY
    os.utime(path / KEY_NAME, (then, then))


def record(runs: Path, recipe: str, run: str, days: float, **stages: str) -> None:
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(time.time() - days * DAY))
    entries = [{"name": name, "key": key_of(letter)} for name, letter in stages.items()]
    document = {"recipe": {"name": recipe}, "started": started, "stages": [*entries, {"name": "benchmark"}]}
    write_json(runs / recipe / run / "run.json", document)


@pytest.fixture
def other_run() -> Iterator[Callable[[Store, str, str], None]]:
    """Start a process that holds an output as a run does that uses it."""
    started: list[subprocess.Popen[str]] = []

    def hold(store: Store, stage: str, letter: str) -> None:
        program = f"""
            from pathlib import Path
            from speculators.pipeline.store import Store
            lock = Store(Path({str(store.root.parent)!r})).lock({stage!r}, {key_of(letter)!r})
            lock.take(alone=False)
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


def look(store: Store, runs: Path = Path("none")) -> Inventory:
    return take_inventory([store.root.parent], runs)


def gone(store: Store, policy: Policy) -> list[str]:
    """What is removed under ``policy``, by its key's letter; the store agrees."""
    found = look(store)
    verdicts = collect(found, judge(found, policy, time.time()))
    removed = [verdict.entry for verdict in verdicts if verdict.remove]
    assert not any(entry.path.exists() for entry in removed)
    assert all(verdict.entry.path.exists() for verdict in verdicts if not verdict.remove)
    return sorted(entry.key[0] for entry in removed)


def test_outputs_are_listed_with_size_age_and_the_runs_that_name_them(store: Store, tmp_path: Path) -> None:
    put(store, "verifier", "a", days=9)
    put(store, "training", "b", days=3)
    runs = tmp_path / "runs"
    record(runs, "first", "20260101-000000-aaaa", 8, verifier="a")
    record(runs, "second", "20260102-000000-bbbb", 5, verifier="a", training="c")
    (runs / "second" / "latest").symlink_to("20260102-000000-bbbb")
    trained, verifier = look(store, runs).entries
    assert (trained.stage, trained.uses) == ("training", ())
    assert [(use.recipe, use.run) for use in verifier.uses] == [
        ("second", "20260102-000000-bbbb"),
        ("first", "20260101-000000-aaaa"),
    ]
    assert verifier.seconds == 60.0
    assert verifier.bytes == sum(file.stat().st_size for file in verifier.path.iterdir()) > 1000
    # Made nine days ago, but a run that names it started five days ago.
    assert time.time() - verifier.used == pytest.approx(5 * DAY, abs=5000)


def test_taking_an_output_from_the_store_is_a_use(tmp_path: Path) -> None:
    made = build(a_run(tmp_path, leaves("model")), VERIFIER)
    used = Store(tmp_path / "home")
    (path,) = [entry.path for entry in look(used).entries]
    assert path == made
    then = time.time() - 30 * DAY
    for place in (made, made / KEY_NAME):
        os.utime(place, (then, then))
    assert time.time() - look(used).entries[0].used > 29 * DAY
    build(a_run(tmp_path, leaves("model")), VERIFIER)
    assert time.time() - look(used).entries[0].used < 60


def test_what_was_not_used_for_long_goes_and_the_rest_stays(store: Store) -> None:
    put(store, "verifier", "a", days=40)
    put(store, "training", "b", days=20)
    kept = put(store, "training", "c", days=40)
    use(kept, days=1)
    assert gone(store, Policy(older_than=30 * DAY)) == ["a"]


def test_the_longest_unused_go_until_the_rest_fits(store: Store) -> None:
    for days, letter in enumerate("abcd"):
        put(store, "training", letter, days=days, size=10_000)
    each = look(store).bytes // 4
    assert gone(store, Policy(max_bytes=2 * each + 100)) == ["c", "d"]
    assert gone(store, Policy(max_bytes=2 * each + 100)) == []


def test_the_last_of_each_stage_can_be_kept(store: Store) -> None:
    for days, letter in enumerate("abc"):
        put(store, "training", letter, days=40 + days)
    put(store, "verifier", "d", days=90)
    verdicts = judge(look(store), Policy(older_than=DAY, keep_last=1), time.time())
    assert {verdict.entry.key[0]: verdict.remove for verdict in verdicts} == {
        "a": False,
        "b": True,
        "c": True,
        "d": False,
    }
    assert {verdict.reason for verdict in verdicts if not verdict.remove} == {
        "one of the last 1 of its stage"
    }
    assert gone(store, Policy(keep_last=2)) == ["c"]


def test_what_a_run_uses_stays_however_old(
    store: Store, other_run: Callable[[Store, str, str], None]
) -> None:
    put(store, "verifier", "a", days=90)
    other_run(store, "verifier", "a")
    (verdict,) = judge(look(store), Policy(older_than=DAY, max_bytes=0), time.time())
    assert (verdict.remove, verdict.reason) == (False, "a run uses it now")


def test_what_a_run_takes_up_between_the_look_and_the_removal_stays(
    store: Store, other_run: Callable[[Store, str, str], None]
) -> None:
    held, used = put(store, "verifier", "a", days=90), put(store, "training", "b", days=90)
    found = look(store)
    verdicts = judge(found, Policy(older_than=DAY), time.time())
    assert all(verdict.remove for verdict in verdicts)
    other_run(store, "verifier", "a")
    store.mark_used(used)  # by a run that has ended again
    verdicts = collect(found, verdicts)
    assert {verdict.reason for verdict in verdicts} == {"a run has taken it up"}
    assert held.is_dir()
    assert used.is_dir()


def test_a_removal_that_is_killed_leaves_nothing_to_trust_and_the_next_one_ends_it(store: Store) -> None:
    path = put(store, "training", "a", days=90)
    program = f"""
        import os, signal, time
        from pathlib import Path
        from speculators.pipeline import eviction
        from speculators.pipeline.inventory import take_inventory
        eviction.shutil.rmtree = lambda path: os.kill(os.getpid(), signal.SIGKILL)
        found = take_inventory([Path({str(store.root.parent)!r})], Path("none"))
        eviction.collect(found, eviction.judge(found, eviction.Policy(older_than=60.0), time.time()))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert store.find("training", key_of("a")) is None
    (aside,) = path.parent.glob("*.replaced-*")
    assert (aside / OUTPUT_NAME).is_file()
    assert look(store).unfinished > 0
    assert gone(store, Policy(older_than=60.0)) == []
    assert not aside.exists()


def test_an_accepted_output_is_named_by_both_keys_and_goes_with_its_link(
    store: Store, tmp_path: Path
) -> None:
    target = put(store, "training", "a", days=90)
    store.accept("training", key_of("b"), target)
    record(tmp_path / "runs", "x", "20260101-000000-aaaa", 80, training="b")
    (entry,) = look(store, tmp_path / "runs").entries
    assert [use.recipe for use in entry.uses] == ["x"]
    assert gone(store, Policy(older_than=DAY)) == ["a"]
    assert not store.path("training", key_of("b")).is_symlink()


def test_a_store_that_is_not_there_holds_nothing(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["cache", "list"]) == 0
    assert capsys.readouterr().out == f"0 outputs, 0 B in {store.root}\n"


def test_what_repeats_of_bundles_made_is_listed_and_goes_too(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    own = put(store, "verifier", "a", days=90)
    finished, at_work = (
        Store(unfinished_home(Path("runs") / REPEATS, run))
        for run in ("20260101-000000-aaaa", "20260102-000000-bbbb")
    )
    verifier = put(finished, "verifier", "a", days=80)
    put(finished, "training", "b", days=80)
    leave(finished.root.parent)
    (at_work.partial("training", key_of("c"))).mkdir(parents=True)
    assert app.main(["cache", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "made for a repeat of 20260101-000000-aaaa" in lines[0]
    assert lines[-1].endswith(f"in {store.root} and 2 repeats")
    assert app.main(["cache", "gc", "--keep-last", "1"]) == 0  # each is the last one of its store
    assert own.is_dir()
    assert verifier.is_dir()
    capsys.readouterr()
    assert app.main(["cache", "gc", "--older-than", "85d", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["remove"] for one in document["outputs"]] == [False, True]
    assert document["outputs"][0]["home"] == str(finished.root.parent)
    assert not own.exists()
    assert app.main(["cache", "gc", "--older-than", "70d"]) == 0
    assert not verifier.exists()


def test_looking_changes_nothing(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "training", "a", days=90)
    before = {path: path.stat().st_mtime for path in store.root.rglob("*")}
    assert app.main(["cache", "list"]) == 0
    assert app.main(["cache", "gc", "--older-than", "1d", "--dry-run", "--json"]) == 0
    assert {path: path.stat().st_mtime for path in store.root.rglob("*")} == before
    told = capsys.readouterr().out
    assert "training  aaaaaaaaaaaa" in told
    document = json.loads(told[told.index("{") :])
    assert document["schema"] == "speculators/cache/v1"
    assert document["freed"] == document["outputs"][0]["bytes"] == document["bytes"]
    assert document["outputs"][0]["reason"] == "last used 90 d ago"


def test_gc_says_what_it_freed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "training", "a", days=90, size=1_500_000)
    put(store, "training", "b", size=500_000)
    assert app.main(["cache", "gc", "--older-than", "30d"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "freed 1.5 MB of 2.0 MB"
    assert [line.split()[0] for line in lines[:-1]] == ["kept", "removed"]
    assert [entry.key[0] for entry in look(store).entries] == ["b"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gc"], "nothing says what may go"),
        (["gc", "--older-than", "soon"], "--older-than soon: no age"),
        (["gc", "--max-size", "1e9"], "--max-size 1e9: no size"),
        (["gc", "--keep-last", "-1"], "-1"),
        (["prune"], "prune"),
        ([], "Missing command"),
    ],
)
def test_what_cannot_be_meant_exits_2(
    words: list[str], message: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    put(store, "training", "a", days=90)
    assert app.main(["cache", *words]) == 2
    assert message in capsys.readouterr().err
    assert len(look(store).entries) == 1


def test_an_output_that_cannot_be_removed_is_kept_and_the_others_go(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, other = put(store, "training", "a", days=90), put(store, "verifier", "b", days=90)

    def refuse(self: Store, stage: str, key: str) -> None:
        if stage == "training":
            raise PermissionError(13, "Permission denied", str(stuck))
        original(self, stage, key)

    original = Store.set_aside
    monkeypatch.setattr(Store, "set_aside", refuse)
    found = look(store)
    verdicts = collect(found, judge(found, Policy(older_than=DAY), time.time()))
    told = {verdict.entry.stage: (verdict.remove, verdict.reason) for verdict in verdicts}
    assert told["training"] == (False, "cannot be removed: Permission denied")
    assert told["verifier"][0]
    assert not other.exists()
    assert eviction.last_mark(stuck) > 0
