"""The script that asks real gates, with a `speculators` of the test's: each end it may have, and restarts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import damaged_draft, real_verdicts
from benchmarks.real_verdicts import CASES
from speculators.benchmark.comparison import ACCEPTANCE_FELL, NOT_COMPARABLE, OUTPUTS_CHANGED, STEP_SLOWER
from speculators.benchmark.gate import OK, REGRESSION, UNDECIDED
from speculators.documents import read_json, write_json, write_text
from speculators.recipe.yaml_writer import dump_yaml

RECIPE = {
    "name": "small",
    "verifier": {"path": "/v"},
    "training": {},
    "engine": {"args": {}, "env": {}},
    "benchmark": {"gate": {}, "requests": 16, "concurrency": [1]},
}
#: By case: exit code, verdict and causes of the gates as they should end.
TRUTH: dict[str, tuple[int, str, list[str]]] = {
    "damaged": (1, REGRESSION, [ACCEPTANCE_FELL]),
    "slowed": (1, REGRESSION, [STEP_SLOWER]),
    "other-dtype": (1, REGRESSION, [OUTPUTS_CHANGED]),
    "same": (0, UNDECIDED, []),
}


class Stage:
    """A finished run, a work folder, and a command line that ends as ``ends`` has it."""

    def __init__(self, folder: Path) -> None:
        self.run, self.work = folder / "runs" / "r1", folder / "work"
        self.ends: dict[str, tuple[int, str, list[str]]] = dict(TRUTH)
        self.asked: list[str] = []
        write_text(self.run / "resolved.yaml", dump_yaml(RECIPE))
        for stage, place in (("verifier", "verifier.path"), ("prompts", "benchmark.prompts")):
            write_json(self.run / "stages" / stage / "input.json", {"files": {place: ["/there"]}})
        (self.run / "model").mkdir()

    def __call__(self, *words: str) -> int:
        if words[0] == "report":
            write_json(Path(words[-1]), {})
            return 0
        name = Path(words[1]).parent.name
        self.asked.append(name)
        folder = Path(words[words.index("--runs-dir") + 1]) / "small" / "latest"
        code, verdict, causes = self.ends.get(name, self.ends.get(name.rsplit("-", 1)[0], (0, "", [])))
        if verdict:
            found = {"verdict": verdict, "causes": causes, "reasons": [], "figures": []}
            write_json(folder / "comparison.json", found)
        write_json(folder / "bench" / "output.json", {"result": {"benchmark": {"rounds": 7}}})
        return code

    def ask(self, *words: str) -> int:
        return real_verdicts.main([str(self.run), "--work", str(self.work), "--gates", "2", *words])


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage(tmp_path)
    monkeypatch.setattr(real_verdicts, "speculators", made)
    monkeypatch.setattr(
        real_verdicts, "damaged", lambda options: options.work / "damaged-draft"
    )  # an engine's work
    return made


Shown = Callable[[], list[str]]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Shown:
    """The first two words of each line about a gate."""
    return lambda: [
        " ".join(line.split()[:2]) for line in capsys.readouterr().out.splitlines() if "-" in line
    ]


def test_what_says_most_is_asked_first(stage: Stage, shown: Shown) -> None:
    assert stage.ask() == 0
    assert stage.asked == ["baseline", "damaged-1", "slowed-1", "other-dtype-1", "same-1", "same-2"]
    assert shown() == [f"right {name}" for name in stage.asked[1:]]


def test_a_gate_that_is_not_comparable_is_wrong_and_the_others_are_still_asked(
    stage: Stage, shown: Shown
) -> None:
    stage.ends["damaged-1"] = stage.ends["same-1"] = (3, NOT_COMPARABLE, [])
    assert stage.ask() == 1
    assert shown() == [
        "WRONG damaged-1",
        *(f"right {name}-1" for name in ("slowed", "other-dtype")),
        "WRONG same-1",
        "right same-2",
    ]


def test_a_gate_that_failed_is_asked_again_by_the_same_command_and_no_other_is(
    stage: Stage, shown: Shown
) -> None:
    stage.ends["slowed-1"] = (3, "", [])
    assert stage.ask() == 1
    assert "FAILED slowed-1" in shown()
    stage.asked.clear()
    stage.ends["slowed-1"] = TRUTH["slowed"]
    assert stage.ask() == 0
    assert stage.asked == ["slowed-1"]


def test_what_an_attempt_left_that_was_killed_is_not_taken_for_a_verdict(stage: Stage, shown: Shown) -> None:
    stage.ask("--only", "slowed")
    (stage.work / "slowed-1" / "outcome.json").unlink()
    stage.ends["slowed-1"] = (2, "", [])  # refused, so that nothing is written
    assert stage.ask("--only", "slowed") == 1
    assert shown()[-1] == "FAILED slowed-1"


@pytest.mark.parametrize(
    ("name", "code", "verdict", "causes", "right"),
    [
        ("damaged", 1, REGRESSION, [ACCEPTANCE_FELL], True),
        ("damaged", 0, REGRESSION, [ACCEPTANCE_FELL], False),  # a job would pass
        ("damaged", 1, REGRESSION, [STEP_SLOWER], False),
        ("damaged", 0, OK, [], False),
        ("damaged", 3, NOT_COMPARABLE, [], False),
        ("same", 0, OK, [], True),
        ("same", 0, UNDECIDED, [], True),
        ("same", 1, OK, [], False),
        ("same", 1, REGRESSION, [UNDECIDED], False),
        ("same", 3, NOT_COMPARABLE, [], False),
    ],
)
def test_verdict_cause_and_exit_code_have_to_be_right(
    name: str, code: int, verdict: str, causes: list[str], right: bool
) -> None:
    case = next(one for one in CASES if one.name == name)
    assert case.right(verdict, causes, code) == right


def test_an_exit_code_is_kept_with_the_run_that_it_is_of(stage: Stage, shown: Shown) -> None:
    stage.ends["damaged-1"] = (0, REGRESSION, [ACCEPTANCE_FELL])
    assert [stage.ask("--only", "damaged") for _ in range(2)] == [1, 1]
    assert stage.asked == ["baseline", "damaged-1"]
    assert shown() == ["WRONG damaged-1"] * 2
    outcome = read_json(stage.work / "damaged-1" / "outcome.json")
    assert outcome["code"] == 0
    assert outcome["run"] == str(stage.work / "damaged-1" / "runs" / "small" / "latest")


def test_without_a_baseline_nothing_is_asked(stage: Stage) -> None:
    stage.ends["baseline"] = (3, "", [])
    with pytest.raises(SystemExit, match="no baseline"):
        stage.ask()
    assert stage.asked == ["baseline"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rounds", "7"], "rounds was 12, now 7"),
        (["--looks", "5", "7"], r"looks was \[5, 7, 9, 12\], now \[5, 7\]"),
        (["--damage", "0.2"], "damage was 0.1, now 0.2"),
        (["--slower", "0.2"], "slower was 0.1, now 0.2"),
        (["--dtype", "float16"], "dtype was bfloat16, now float16"),
    ],
)
def test_a_work_folder_is_of_one_set_of_options(words: list[str], said: str, stage: Stage) -> None:
    stage.ask("--only", "same")
    stage.asked.clear()
    with pytest.raises(SystemExit, match=f"{said}: .*--work"):
        stage.ask(*words)
    assert stage.asked == []


def test_more_gates_and_other_cases_may_be_asked_for_later(stage: Stage) -> None:
    stage.ask("--only", "same")
    stage.asked.clear()
    assert stage.ask("--only", "same", "damaged", "--gates", "3") == 0
    assert stage.asked == ["damaged-1", "same-3"]


def test_a_latest_run_that_has_moved_on_is_another_run(stage: Stage) -> None:
    latest = stage.run.with_name("latest")
    latest.symlink_to("r1")
    first, stage.run = stage.run, latest
    stage.ask("--only", "same")
    shutil.copytree(first, first.with_name("r2"))
    latest.unlink()
    latest.symlink_to("r2")
    with pytest.raises(SystemExit, match=r"run was .*r1, now .*r2"):
        stage.ask("--only", "same")


def test_work_of_unknown_options_is_not_gone_on_with(stage: Stage) -> None:
    write_json(stage.work / "baseline.json", {})
    with pytest.raises(SystemExit, match=r"no options\.json"):
        stage.ask()


def test_a_copy_that_did_not_end_is_not_there(tmp_path: Path) -> None:
    folder, target = tmp_path / "candidate", tmp_path / "damaged-draft"
    write_json(folder / "config.json", {})
    (folder / "weights").symlink_to("nowhere")  # what copytree fails at
    with pytest.raises(shutil.Error):
        damaged_draft.put(folder, target)
    assert not target.exists()
    (folder / "weights").unlink()
    damaged_draft.put(folder, target)
    assert [path.name for path in target.iterdir()] == ["config.json"]
    assert list(tmp_path.glob("*.partial")) == []


def test_a_gate_has_the_looks_and_the_draft_that_were_asked_for(stage: Stage) -> None:
    stage.ask("--only", "same", "--looks", "3", "5", "--rounds", "5")
    text = (stage.work / "same-1" / "recipe.yaml").read_text()
    known: dict[str, Any] = real_verdicts.load_yaml(text, "").data
    assert known["benchmark"]["gate"] == {"looks": [3, 5]}
    assert known["benchmark"]["rounds"] == 5
    assert known["draft"] == str(stage.run / "model")
    assert "training" not in known
