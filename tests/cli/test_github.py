"""What a job on GitHub Actions shows, and the action's script with a `speculators` of the test's."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from speculators.cli.app import main
from speculators.cli.github import LEFT_OUT, SUMMARY_BYTES, annotate, annotation, append, show
from speculators.recipe.diagnostics import Diagnostic

ROOT = Path(__file__).parents[2] / ".github"
ACTION = ROOT / "actions" / "speedup-gate"


def test_a_regression_is_an_error_and_the_page_is_on_the_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = tmp_path / "summary.md"
    environ = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    show("regression", "regression: it fell", "# page", environ)
    show("ok", "ok: fine", "# other", environ)
    shown = capsys.readouterr()
    assert shown.err == "::error title=speedup%3A regression::regression: it fell\n"
    assert shown.out == ""
    assert summary.read_text() == "# page\n# other\n"


def test_what_ended_a_command_early_is_an_error_on_the_job_and_on_its_summary(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 2
    text = capsys.readouterr().err
    assert f"\n::error title=no-run::error: {tmp_path}/a.json" in text
    assert f"error: {tmp_path}/a.json: there is no such file" in summary.read_text()
    monkeypatch.delenv("GITHUB_ACTIONS")
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 2
    assert "::error" not in capsys.readouterr().err


def test_elsewhere_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show("regression", "it fell", "# page", {})
    assert capsys.readouterr().err == ""


def test_each_diagnostic_stands_beside_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    found = [
        Diagnostic("error", "unknown-key", "unknown key 'x'", "a,b.yaml", 6, 3, hint="did you mean 'y'?"),
        Diagnostic("note", "not-checked", "not checked", "r.yaml", 2, 1),
        Diagnostic("warning", "w", "of an argument", "--set[2]", 1, 9, notes=("at its default, 1",)),
    ]
    annotate(found, {"GITHUB_ACTIONS": "true"})
    assert capsys.readouterr().err.splitlines() == [
        "::error file=a%2Cb.yaml,line=6,col=3,title=unknown-key::unknown key 'x'%0Ahelp: did you mean 'y'?",
        "::notice file=r.yaml,line=2,col=1,title=not-checked::not checked",
        "::warning title=w::of an argument%0Anote: at its default, 1",
    ]
    annotate(found, {})
    assert capsys.readouterr().err == ""


def test_check_and_run_annotate_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    (tmp_path / "r.yaml").write_text("a: [\n")
    expected = f"::error file={tmp_path}/r.yaml,line=2,col=1,title=yaml-syntax::"
    for verb in ("check", "plan", "run"):
        assert main([verb, str(tmp_path / "r.yaml")]) == 2
        shown = capsys.readouterr()
        assert next(line for line in shown.err.splitlines() if line.startswith("::")).startswith(expected)


def test_nothing_in_a_message_ends_the_command_early() -> None:
    assert annotation("warning", "a,b:c", "50%\nnext") == "::warning title=a%2Cb%3Ac::50%25%0Anext"


def test_a_page_that_does_not_fit_is_left_out_with_a_word(tmp_path: Path) -> None:
    append(tmp_path / "s.md", "x" * SUMMARY_BYTES)
    assert (tmp_path / "s.md").read_text() == LEFT_OUT + "\n"
    append(tmp_path / "s.md", "x" * (SUMMARY_BYTES - 200))
    append(tmp_path / "s.md", "y" * 200)
    assert (tmp_path / "s.md").stat().st_size <= SUMMARY_BYTES


def test_the_action_hands_its_inputs_to_the_script_as_environment_only() -> None:
    action = yaml.safe_load((ACTION / "action.yml").read_text())
    step = action["runs"]["steps"][0]
    assert "${{" not in step["run"]
    given = {value.split("inputs.")[1].split(" ")[0] for value in step["env"].values()}
    assert given == set(action["inputs"])
    workflow = yaml.safe_load((ROOT / "workflows" / "speedup-gate.yml").read_text())
    used = next(one for one in workflow["jobs"]["gate"]["steps"] if "speedup-gate" in str(one.get("uses")))
    assert set(used["with"]) <= set(action["inputs"])


INPUTS = {
    "RECIPE": "my recipe.yaml",
    "BASELINE": "b.json",
    "OVERRIDES": "",
    "STRICT": "false",
    "RUNS_DIR": "runs",
}


def scripted(
    script: list[str], folder: Path, code: int = 0, verdict: str | None = None, **inputs: str
) -> subprocess.CompletedProcess[str]:
    """Run ``script`` in ``folder`` with a `speculators` that notes its arguments and ends with ``code``.

    ``verdict``: that of the run it begins; None where it begins none.
    """
    record = json.dumps({"gate": {"verdict": verdict}})
    begun = f"mkdir -p runs/my/r1\nprintf '%s' '{record}' > runs/my/r1/run.json\n" if verdict else ""
    program = folder / "speculators"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> arguments\nsleep 0.1\n{begun}exit {code}\n')
    program.chmod(0o755)
    environment = {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "GITHUB_OUTPUT": str(folder / "output"),
        **INPUTS,
        **inputs,
    }
    return subprocess.run(
        ["bash", *script], env=environment, check=False, cwd=folder, capture_output=True, text=True
    )


GATE = [str(ACTION / "gate.sh")]


@pytest.mark.parametrize(
    ("code", "verdict"), [(0, "ok"), (1, "regression"), (3, "not comparable"), (2, None)]
)
def test_the_script_ends_as_the_gate_does_and_says_its_verdict(
    tmp_path: Path, code: int, verdict: str | None
) -> None:
    earlier = tmp_path / "runs" / "my" / "r0" / "run.json"
    earlier.parent.mkdir(parents=True)
    earlier.write_text(json.dumps({"gate": {"verdict": "of an earlier run"}}))
    os.utime(earlier, (1, 1))
    overrides = "benchmark.requests=6\nbenchmark.gate.looks=[3]\n"
    done = scripted(GATE, tmp_path, code, verdict, OVERRIDES=overrides, STRICT="true")
    assert done.returncode == code
    run = "runs/my/r1" if verdict else ""
    assert (tmp_path / "output").read_text() == f"verdict={verdict or ''}\nrun={run}\n"
    assert (tmp_path / "arguments").read_text().splitlines() == [
        *["run", "my recipe.yaml", "--against", "b.json", "--runs-dir", "runs", "--progress", "plain"],
        *["--set", "benchmark.requests=6", "--set", "benchmark.gate.looks=[3]", "--strict"],
    ]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("BASELINE", "", "BASELINE is empty"),  # of a variable that nobody set
        ("BASELINE", " \n", "BASELINE is empty"),
        ("RECIPE", "", "RECIPE is empty"),
        ("RUNS_DIR", "", "RUNS_DIR is empty"),
        ("STRICT", "yes", "strict is yes: give true or false"),
        ("STRICT", "", "strict is '': give true or false"),
        ("STRICT", "a\n::warning::b", r"strict is $'a\n::warning::b': give true or false"),
    ],
)
def test_the_script_refuses_what_would_gate_nothing_or_less(
    name: str, value: str, said: str, tmp_path: Path
) -> None:
    done = scripted(GATE, tmp_path, **{name: value})
    assert done.returncode == 2
    assert done.stdout.startswith("::error title=speedup-gate::")
    assert said in done.stdout
    assert done.stdout.count("\n") == 1
    assert not (tmp_path / "arguments").exists()


@pytest.mark.parametrize(("strict", "passed"), [("True", True), ("TRUE", True), ("False", False)])
def test_strict_is_heard_however_it_is_spelled(strict: str, passed: bool, tmp_path: Path) -> None:
    assert scripted(GATE, tmp_path, STRICT=strict).returncode == 0
    assert ("--strict" in (tmp_path / "arguments").read_text().splitlines()) == passed


def test_overrides_are_taken_without_the_space_around_them(tmp_path: Path) -> None:
    scripted(GATE, tmp_path, OVERRIDES="  benchmark.requests=6\r\n\r\n\t engine.env.X=a b \r\n   ")
    words = (tmp_path / "arguments").read_text().splitlines()
    assert words[8:] == ["--set", "benchmark.requests=6", "--set", "engine.env.X=a b"]


def test_a_runs_folder_that_is_a_link_is_looked_into(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs").symlink_to("elsewhere")
    assert scripted(GATE, tmp_path, 1, "regression").returncode == 1
    assert (tmp_path / "output").read_text() == "verdict=regression\nrun=runs/my/r1\n"


def test_the_example_measures_the_baseline_that_it_gates_against(tmp_path: Path) -> None:
    """Nothing stands in the repository where its input points: one says so, the other measures it."""
    workflow = yaml.safe_load((ROOT / "workflows" / "speedup-gate.yml").read_text())
    steps = {one.get("name"): one for one in workflow["jobs"]["gate"]["steps"]}
    asked, measured = steps["Is there a baseline?"], steps["Measure a baseline"]
    assert all("${{" not in one["run"] for one in (asked, measured))

    missing = scripted(["-ec", asked["run"]], tmp_path, BASELINE="recipes/b.json")
    assert missing.returncode == 2
    assert missing.stdout.startswith("::error::no baseline at recipes/b.json")
    (tmp_path / "b.json").write_text("{}")
    assert scripted(["-ec", asked["run"]], tmp_path, BASELINE="b.json").returncode == 0

    (tmp_path / "runs" / "my" / "latest").mkdir(parents=True)
    assert scripted(["-ec", measured["run"]], tmp_path).returncode == 0
    words = (tmp_path / "arguments").read_text().splitlines()
    assert words[:2] == ["run", "my recipe.yaml"]
    assert words[-6:] == ["report", "runs/my/latest", "--format", "baseline", "--out", "baseline.json"]
