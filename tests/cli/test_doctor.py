"""``doctor`` from outside: exit codes, streams, and that it changes nothing unless told to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from speculators.cli import app
from speculators.cli.doctor import text
from speculators.pipeline.machine import copies, engine, orphans, packages, sources
from speculators.pipeline.machine.findings import missing, ok
from speculators.pipeline.store import Store

RECIPES = Path(__file__).parents[2] / "recipes"
SMOLLM = str(RECIPES / "smollm2-135m-eagle3.yaml")
QWEN = str(RECIPES / "qwen3-8b-eagle3.yaml")
KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A store and a hub cache of this test's own; other people's processes are left alone."""
    monkeypatch.setenv("SPECULATORS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(orphans, "orphans", list)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that has every package and an engine, whatever this one has."""
    monkeypatch.setattr(packages, "look", lambda package: packages.Installed(True, package.module, "1"))
    monkeypatch.setattr(engine, "look", lambda: None)
    monkeypatch.setattr(copies, "judge_copies", lambda *_: [])
    monkeypatch.setattr(sources, "package_finding", lambda *_: ok("verifier", "here"))


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("arguments", [[], [SMOLLM]])
def test_a_machine_that_has_everything_exits_0(
    arguments: list[str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["doctor", *arguments]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "ok  store" in shown.out
    assert ("ok  verifier" in shown.out) == bool(arguments)
    assert ("estimate" in shown.out) == bool(arguments)
    assert not home.exists()


@pytest.mark.usefixtures("whole")
def test_what_is_missing_is_listed_with_its_mend_and_exits_4(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["doctor", QWEN]) == 4
    shown = capsys.readouterr().out
    assert "--  verifier" in shown
    assert "= help: hf download Qwen/Qwen3-8B --revision b968826d" in shown
    assert "missing" in shown.splitlines()[-1]


@pytest.mark.usefixtures("whole")
def test_json_is_one_document_with_a_state_for_each_finding(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["doctor", QWEN, "--json"]) == 4
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["ok"]) == ("speculators/doctor/v1", False)
    assert {frozenset(finding) for finding in document["findings"]} == {
        frozenset({"check", "state", "detail", "mend"})
    }
    (verifier,) = (finding for finding in document["findings"] if finding["check"] == "verifier")
    assert verifier["state"] == "missing"
    assert {finding["state"] for finding in document["findings"]} <= {
        "ok",
        "warning",
        "missing",
        "not checked",
    }


def test_a_token_is_never_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    app.main(["doctor", QWEN])
    app.main(["doctor", QWEN, "--json"])
    shown = capsys.readouterr()
    assert "hf_verysecret" not in shown.out + shown.err


def test_a_wrong_recipe_exits_2_with_its_diagnostics(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["doctor", SMOLLM, "--set", "training.epochs=0"]) == 2
    shown = capsys.readouterr().out
    assert "training.epochs is 0, but must be at least 1" in shown
    assert "not ok (1 error)" in shown
    assert app.main(["doctor", "none.yaml", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["schema"] == "speculators/check/v1"


def test_a_setting_of_no_recipe_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["doctor", "--set", "training.epochs=2"]) == 2
    assert "name one" in capsys.readouterr().err


@pytest.mark.usefixtures("whole")
def test_only_clean_removes_what_an_interrupted_run_left(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    partial = Store(home).root / "training" / f"{KEY}.partial"
    partial.mkdir(parents=True)
    (partial / "half").write_text("half")
    assert app.main(["doctor"]) == 0
    assert f"unfinished and unused: training/{KEY}.partial (4 B)" in capsys.readouterr().out
    assert partial.is_dir()
    assert app.main(["doctor", "--clean"]) == 0
    shown = capsys.readouterr().out
    assert f"removed training/{KEY}.partial (4 B); that stage starts over" in shown
    assert "nothing is missing" in shown
    assert not partial.exists()


def test_a_missing_package_exits_4_without_a_recipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(packages, "look", lambda package: packages.Installed(False))
    assert app.main(["doctor"]) == 4
    assert "torch is not installed (extra 'train')" in capsys.readouterr().out


def test_a_mend_that_several_findings_share_is_shown_once() -> None:
    found = [
        missing("a", "x", "mend it"),
        missing("a", "y", "mend it"),
        ok("b", "z"),
    ]
    assert text(found).splitlines() == [
        "--  a  x",
        "--  a  y",
        "      = help: mend it",
        "ok  b  z",
        "2 missing",
    ]


def test_looking_at_the_machine_imports_nothing_heavy() -> None:
    heavy = ("torch", "vllm", "transformers", "huggingface_hub", "guidellm", "numpy")
    program = (
        "import sys\nfrom speculators.cli.app import main\n"
        f"main(['doctor', {SMOLLM!r}])\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
