"""``speculators lock`` from outside, and the lock that ships."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from speculators.cli import app
from tests.cli.test_app import RECIPES, ROOT, SMOLLM

SHIPPED = RECIPES / "smollm2-135m-eagle3.lock.yaml"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SPECULATORS_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A copy of the default recipe with its prompts and its lock."""
    shutil.copytree(RECIPES, tmp_path / "recipes")
    return tmp_path / "recipes" / Path(SMOLLM).name


def lock_of(recipe: Path) -> Path:
    return recipe.with_name(recipe.stem + ".lock.yaml")


def test_the_shipped_lock_is_true_here(capsys: pytest.CaptureFixture[str]) -> None:
    """When this fails, an input changed: if that was meant, run ``speculators lock`` and commit the lock."""
    code = app.main(["lock", SMOLLM, "--check"])
    shown = capsys.readouterr()
    assert (code, shown.out, shown.err) == (0, f"{SHIPPED}: ok\n", "")


def test_the_shipped_lock_is_that_of_the_pinned_environment() -> None:
    """Not of a machine that happens to have others: ``make setup-local`` installs these versions."""
    lines = SHIPPED.read_text(encoding="utf-8").split("packages:\n")[1].split("prompts:\n")[0].splitlines()
    locked = dict(line.strip().split(": ") for line in lines)
    requirements = (ROOT / "containers/cpu/requirements.txt").read_text(encoding="utf-8").splitlines()
    setup = (ROOT / "containers/cpu/setup.sh").read_text(encoding="utf-8")
    assert f"sys.version_info[:2] != (3, {locked.pop('python').strip(chr(34))[2:]})" in setup
    assert f"torch=={locked.pop('torch').removesuffix('+cpu')}\n" in setup
    assert {f"{name}=={version}" for name, version in locked.items()} <= set(requirements)


def test_the_shipped_lock_names_no_sources_of_a_checkout() -> None:
    assert SHIPPED.read_text(encoding="utf-8").rstrip().split("tool:\n")[1].startswith("  version: ")


def test_an_edit_is_found_with_its_line_and_a_way_out(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = recipe.parent / "prompts" / "benchmark.jsonl"
    prompts.write_text(prompts.read_text().replace("?", "!", 1))
    recipe.write_text(recipe.read_text().replace("epochs: 5", "epochs: 6"))
    before = lock_of(recipe).read_text()
    assert app.main(["lock", str(recipe), "--check"]) == 2
    data, digest, way_on = capsys.readouterr().out.splitlines()
    lines = before.split("\n")
    for shown, name in ((data, "    sha256: "), (digest, "recipe: ")):
        place, line, _, change = shown.split(":", 3)
        assert place == str(lock_of(recipe))
        assert name in lines[int(line) - 1]
        assert change.endswith(" [stale-pin]")
    assert "prompts.benchmark.prompts/benchmark.jsonl.sha256 e2f19f25ba0c -> " in data
    assert way_on.endswith(f"speculators lock {recipe} --update prompts.benchmark --update recipe")
    assert lock_of(recipe).read_text() == before

    assert app.main(["lock", str(recipe), "--update", "prompts.benchmark"]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[1].startswith("  ~ prompts.benchmark.prompts/benchmark.jsonl.sha256 ")
    assert shown.err == "note: still stale: recipe\n"
    assert app.main(["lock", str(recipe)]) == 0
    assert "\n  ~ recipe " in capsys.readouterr().out
    assert app.main(["lock", str(recipe), "--check"]) == 0
    capsys.readouterr()
    assert app.main(["lock", str(recipe)]) == 0
    assert ": up to date, " in capsys.readouterr().out


def test_a_lock_is_written_where_there_is_none(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock_of(recipe).unlink()
    assert app.main(["lock", str(recipe), "--check"]) == 2
    assert f"write it with: speculators lock {recipe}" in capsys.readouterr().err
    assert not lock_of(recipe).exists()
    assert app.main(["lock", str(recipe), "--update", "models"]) == 2
    assert "nothing to update [no-lock]" in capsys.readouterr().err
    assert app.main(["lock", str(recipe)]) == 0
    assert lock_of(recipe).read_bytes() == SHIPPED.read_bytes()


def test_overrides_do_not_make_the_lock_stale(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["lock", str(recipe), "--check", "--set", "training.epochs=1"]) == 0
    assert capsys.readouterr().out == f"{lock_of(recipe)}: ok\n"


def test_what_was_not_compared_is_said(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["lock", str(recipe), "--check", "--set", "executor=docker"]) == 0
    assert "note: not compared: images (no container engine was asked)" in capsys.readouterr().err


def test_the_report_as_a_document(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock_of(recipe).write_text(lock_of(recipe).read_text().replace('python: "3.11"', 'python: "3.9"'))
    assert app.main(["lock", str(recipe), "--check", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    (difference,) = document.pop("differences")
    assert document == {
        "schema": "speculators/lock-report/v1",
        "file": str(lock_of(recipe)),
        "ok": False,
        "notes": [],
    }
    assert difference.pop("line") == 1 + lock_of(recipe).read_text().split("\n").index('  python: "3.9"')
    assert difference == {"pin": "packages.python", "kind": "package", "was": "3.9", "now": "3.11", "col": 3}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--check", "--update", "models"], "give one of them [usage]"),
        (["--update", "modls.verifier"], "did you mean 'models.verifier'?"),
        (["--set", "training.epochs=0"], "training.epochs is 0"),
        (["--image", "engine=x:1"], "stages run in this environment"),
    ],
)
def test_what_cannot_be_meant_exits_2(
    recipe: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = lock_of(recipe).read_bytes()
    assert app.main(["lock", str(recipe), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert lock_of(recipe).read_bytes() == before


def test_a_model_that_is_not_here_cannot_be_locked(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    qwen = recipe.with_name("qwen3-8b-eagle3.yaml")
    assert app.main(["lock", str(qwen)]) == 4
    assert "hf download Qwen/Qwen3-8B --revision" in capsys.readouterr().err
    assert not lock_of(qwen).exists()


def test_check_looks_at_the_form_of_locks(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock_of(recipe).write_text(lock_of(recipe).read_text() + "extra: 1\n")
    assert app.main(["check", str(lock_of(recipe))]) == 2
    assert "error: unknown key 'extra' in the lock [unknown-key]" in capsys.readouterr().out
