"""``plan`` and the options that it shares with ``run``, from outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from speculators.cli import app
from speculators.pipeline.locking import lock_path
from speculators.pipeline.store import Store
from speculators.recipe.recipe import require_recipe
from tests.cli.test_app import SMOLLM
from tests.pipeline.stages import furnish
from tests.pipeline.test_pins import ROW, recipe


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SPECULATORS_HOME", str(tmp_path))
    return tmp_path


def test_the_plan_is_on_stdout_and_work_has_an_exit_code_of_its_own(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["plan", SMOLLM]) == 0
    shown = capsys.readouterr().out
    assert "  ~ training       run      made anew before it: verifier, hidden_states" in shown
    assert app.main(["plan", SMOLLM, "--detailed-exitcode"]) == 10
    furnish(Store(home), require_recipe(Path(SMOLLM)))
    assert app.main(["plan", SMOLLM, "--detailed-exitcode"]) == 0


def test_the_plan_as_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["plan", SMOLLM, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "speculators/plan/v1"
    assert [stage["action"] for stage in document["stages"]] == ["run"] * 6 + ["measure"]


def test_the_plan_says_what_a_training_step_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["plan", SMOLLM, "--set", "training.precision=bfloat16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (at,) = (at for at, line in enumerate(lines) if line.startswith("a training step on 1024 tokens"))
    assert lines[at].endswith(
        ", on paper (memory with AdamW on one GPU; Muon, checkpointing and fsdp take less):"
    )
    assert [line.split()[0] for line in lines[at + 1 :]] == ["100%", "60%", "30%", "10%"]
    assert "GFLOP a token" in lines[-1]
    assert "of a GPU at the most" in lines[-1]
    assert app.main(["plan", SMOLLM, "--json", "--set", "training.ttt_steps=1"]) == 0
    short = json.loads(capsys.readouterr().out)["training_step"]
    assert app.main(["plan", SMOLLM, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)["training_step"]
    assert [one["taught"] for one in whole] == [1.0, 0.6, 0.3, 0.1]
    assert all(one["memory"] is None for one in whole), "products in float32 were promised a memory"
    assert all(a["operations_per_token"] < b["operations_per_token"] for a, b in zip(short, whole))


def test_the_memory_of_several_sequences_a_step_is_that_of_two(capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for sequences in (1, 2, 8):
        several = f"training.sequences_per_step={sequences}"
        halves = ["--set", "training.precision=bfloat16"]
        assert app.main(["plan", SMOLLM, "--json", *halves, "--set", several]) == 0
        step = json.loads(capsys.readouterr().out)["training_step"]
        found.append([one["memory"] for one in step])
    one, two, eight = found
    assert all(less < more for less, more in zip(one, two))
    assert two == eight


def test_a_draft_without_a_formula_is_planned_without_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["plan", SMOLLM, "--json", "--set", "algorithm.layers=2"]) == 0
    assert json.loads(capsys.readouterr().out)["training_step"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", SMOLLM, "--only", "trainig"], "--only: this recipe has no stage 'trainig'"),
        (["plan", SMOLLM, "--only", "package"], "--only package: stage 'verifier' would have to run first"),
        (["run", SMOLLM, "--progress", "loud"], "--progress is 'loud': one of auto, plain, quiet"),
        (["plan", SMOLLM, "--set", "training.epochs=0"], "training.epochs"),
        (["plan", SMOLLM, "--image", "engine=x:1"], "stages run in this environment"),
        (["run", SMOLLM, "--runs-dir", SMOLLM], "is a file"),
    ],
)
def test_what_cannot_be_meant_exits_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        (["run", "--fresh", "x.yaml"], ["run", "--fresh", "all", "x.yaml"]),
        (["run", "x.yaml", "--fresh"], ["run", "x.yaml", "--fresh", "all"]),
        (["run", "--fresh", "training", "x.yaml"], ["run", "--fresh", "training", "x.yaml"]),
        (["certify", "--fresh"], ["certify", "--fresh"]),
        (["run", "x.yaml", "--fresh", "trainning"], ["run", "x.yaml", "--fresh", "trainning"]),
    ],
)
def test_fresh_without_a_stage_means_all(given: list[str], understood: list[str]) -> None:
    assert app.with_fresh_names(given) == understood


def test_a_plan_whose_lock_would_refuse_the_run_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = recipe(tmp_path)
    path, name = lock_path(given.path), str(given.path)
    assert app.main(["lock", name]) == 0
    capsys.readouterr()
    assert app.main(["plan", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["refused"] is None
    with (tmp_path / "prompts.jsonl").open("a") as file:
        file.write(ROW.replace('"a"', '"c"'))
    assert app.main(["plan", name, "--detailed-exitcode"]) == 2
    said = capsys.readouterr()
    assert "benchmark      measure" in said.out
    assert said.err.startswith(f"error: {path} pins other inputs than are here [stale-lock]\n  {path}:")
    assert f"speculators lock {name} --update prompts.benchmark" in said.err
    assert app.main(["plan", name, "--json"]) == 2
    refused = json.loads(capsys.readouterr().out)["refused"]
    assert refused["rule"] == "stale-lock"
    path.write_text("schema: speculators/lock/v2\n")
    assert app.main(["plan", name]) == 2
    assert "[invalid-lock]" in capsys.readouterr().err
