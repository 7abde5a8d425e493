"""Completion: the script in a real bash, and what the program answers it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from speculators.cli import app
from speculators.cli.completion import known_recipes, recipe_files, settings, stages

ROOT = Path(__file__).parents[2]


def test_recipes_are_offered_and_their_locks_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.yaml", "a.lock.yaml", "b.yaml", "notes.txt", ".hidden.yaml", "deep/c.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    assert recipe_files("") == ["a.yaml", "b.yaml", "deep/"]
    assert recipe_files("deep/") == ["deep/c.yaml"]
    assert recipe_files(f"{tmp_path}/b") == [f"{tmp_path}/b.yaml"]
    assert recipe_files("nowhere/") == []
    assert "qwen3-8b-eagle3" in known_recipes("qwen3-8b")


def test_stages_paths_and_values_are_offered() -> None:
    assert stages("re") == ["responses"]
    assert "benchmark" in stages("")
    assert settings("training.opt") == ["training.optimizer="]
    assert settings("training.optimizer=") == ["training.optimizer=adamw", "training.optimizer=muon"]
    assert settings("verifier.trust_remote_code=t") == ["verifier.trust_remote_code=true"]
    assert settings("training.epochs=") == []
    assert "training=" not in settings("")  # a block is nothing to type


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_script_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["completion", shell]) == 0
    assert "_SPECULATORS_COMPLETE" in capsys.readouterr().out


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["completion", "tcsh"]) == 2


def test_the_script_completes_in_bash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bash = shutil.which("bash")
    assert bash
    app.main(["completion", "bash"])
    (tmp_path / "script").write_text(capsys.readouterr().out)
    program = tmp_path / "speculators"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m speculators "$@"\n')
    program.chmod(0o755)
    asked = (
        f"source {tmp_path}/script; COMP_WORDS=({program} plan recipes/smollm2-135m-eag); COMP_CWORD=2; "
        f'_speculators_completion {program}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run([bash, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["recipes/smollm2-135m-eagle.yaml", "recipes/smollm2-135m-eagle3.yaml"]
