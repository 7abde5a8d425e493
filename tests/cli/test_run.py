"""``run`` from outside: what it refuses before anything is fetched or run, and how it says to go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from speculators.cli.app import main

SMOLLM = str(Path(__file__).parents[2] / "recipes" / "smollm2-135m-eagle3.yaml")
BUNDLE = "http://127.0.0.1:9/never-asked-for.speculators.tar"


@pytest.mark.parametrize("option", ["--only", "--from", "--accept"])
def test_a_bundle_is_repeated_as_a_whole(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", BUNDLE, option, "training", "--runs-dir", str(tmp_path / "runs")]) == 2
    shown = capsys.readouterr().err
    assert f"{option}: a bundle is repeated as a whole" in shown
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("option", "where"),
    [("--strict", "only with --against or for a bundle"), ("--trust-recipe", "only for a bundle")],
)
def test_what_speaks_of_verdicts_and_bundles_is_refused_for_a_recipe_alone(
    option: str, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", SMOLLM, option, "--runs-dir", str(tmp_path / "runs")]) == 2
    assert f"{option}: {where}" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("verb", ["run", "plan"])
@pytest.mark.parametrize("source", [SMOLLM, BUNDLE])
@pytest.mark.parametrize("name", ["", " "])
def test_a_baseline_without_a_name_is_not_no_baseline(
    verb: str, source: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, source, "--against", name, "--runs-dir", str(tmp_path / "runs")]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "'--against': empty, so nothing would be gated: name a baseline or leave --against out" in shown
    assert not (tmp_path / "runs").exists()


def test_the_command_that_continues_keeps_what_was_asked_and_makes_nothing_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("speculators.pipeline.run.run_recipe", interrupted)
    kept = ["--set", "training.epochs=2", "--accept", "prompts", "--runs-dir", "here it is", "--locked"]
    assert main(["run", SMOLLM, *kept, "--fresh", "training", "-q"]) == 130
    said = capsys.readouterr().err
    assert f"continue with: speculators run {SMOLLM} --set training.epochs=2 --accept prompts" in said
    assert "--runs-dir 'here it is' --locked\n" in said
    assert "--fresh" not in said
