"""The command line from outside: exit codes, streams, and what it does not import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from speculators import __version__
from speculators.cli import app
from speculators.errors import MachineError, StageError

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
SMOLLM = str(RECIPES / "smollm2-135m-eagle3.yaml")
HEAVY = ("torch", "vllm", "docker", "transformers", "guidellm", "numpy", "scipy", "huggingface_hub")


@pytest.fixture(autouse=True)
def _no_hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], [], ["check", "--help"], ["run", "--help"]])
def test_help_is_on_stdout(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(arguments) == 0
    shown = capsys.readouterr()
    assert "Usage: speculators" in shown.out
    assert "Examples:" in shown.out
    assert shown.err == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["--version"]) == 0
    assert capsys.readouterr().out == f"speculators {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["chek"], ["check"], ["check", "--nope", SMOLLM], ["run"], ["run", SMOLLM, "--set"]]
)
def test_a_wrong_command_line_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert "[usage]" in shown.err


def test_check_accepts_the_shipped_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["check", *map(str, sorted(RECIPES.glob("*.yaml")))]) == 0
    shown = capsys.readouterr().out
    assert f"{SMOLLM}: ok (1 note)" in shown
    assert "not checked: engine.args" in shown


def test_check_of_several_fails_when_one_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["check", SMOLLM, str(tmp_path / "none.yaml")]) == 2
    shown = capsys.readouterr().out
    assert "smollm2-135m-eagle3.yaml: ok" in shown
    assert "none.yaml: not ok (1 error)" in shown


def test_check_takes_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["check", SMOLLM, "--set", "training.epochs=2", "--set", "training.lr=1"]) == 2
    assert "--set[2]:1: error: unknown key 'training.lr' [unknown-key]" in capsys.readouterr().out


def test_check_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["check", SMOLLM, "--json", "--set", "training.epochs=six"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "speculators/check/v1"
    (recipe,) = document["recipes"]
    assert (recipe["file"], recipe["ok"]) == (SMOLLM, False)
    (item,) = recipe["diagnostics"]
    assert (item["rule"], item["file"], item["line"], item["col"]) == ("wrong-type", "--set[1]", 1, 17)


def test_schema_prints_the_published_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["schema"]) == 0
    assert capsys.readouterr().out == (ROOT / "schemas" / "recipe.v1.json").read_text(encoding="utf-8")


def test_run_refuses_a_wrong_recipe_before_anything_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    assert app.main(["run", SMOLLM, "--set", "training.epochs=0", "--runs-dir", str(runs)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "training.epochs is 0, but must be at least 1" in shown.err
    assert not runs.exists()


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (StageError("it broke", hint="mend it"), 3, "error: it broke [stage-failed]\n      = help: mend it"),
        (MachineError("no disk"), 4, "error: no disk [machine]"),
        (MachineError("it ended\n  | [log]"), 4, "error: it ended [machine]\n  | [log]\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("oops"), 70, "this is a bug in speculators"),
    ],
)
def test_every_failure_has_its_exit_code(
    raised: BaseException,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing() -> str:
        raise raised

    monkeypatch.setattr("speculators.recipe.schema.schema_text", failing)
    assert app.main(["schema"]) == code
    shown = capsys.readouterr().err
    assert words in shown
    assert ("Traceback" in shown) == (code == 70)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["check", SMOLLM], ["plan", SMOLLM], ["schema"], ["lock", SMOLLM, "--check"]],
)
def test_light_verbs_import_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom speculators.cli.app import main\n"
        f"code = main({arguments!r})\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)\nsys.exit(code)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"


def test_a_reader_that_goes_away_is_no_regression() -> None:
    """Exit code 1 would say that one was found."""
    command = [sys.executable, "-m", "speculators", "schema"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as program:
        assert program.stdout is not None
        program.stdout.close()
        assert program.wait(timeout=60) == 141


def test_the_package_is_a_command() -> None:
    command = [sys.executable, "-m", "speculators", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == f"speculators {__version__}\n"


def test_an_interrupted_run_says_how_to_go_on_even_if_a_second_interrupt_came_meanwhile(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise KeyboardInterrupt  # noqa: B904 - as a second ^C does

    monkeypatch.setattr("speculators.pipeline.run.run_recipe", interrupted)
    assert app.main(["run", SMOLLM, "--set", "training.epochs=2"]) == 130
    assert f"continue with: speculators run {SMOLLM} --set training.epochs=2" in capsys.readouterr().err
