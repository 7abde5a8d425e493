"""``speculators images`` where no engine runs: what still works, and how the rest ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from speculators.cli import app
from speculators.executors.images import load_images


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")


def test_list_works_without_an_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["images", "list"]) == 0
    shown = capsys.readouterr()
    for name, image in load_images().images.items():
        assert f"\n{name} " in shown.out
        assert image.reference in shown.out
    assert "set cuda: engine cuda-engine, trainer cuda-trainer, bench cuda-bench" in shown.out
    assert "no container engine answers" in shown.err


def test_list_json_does_not_claim_to_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["images", "list", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["engine"] is False
    assert {row["present"] for row in document["images"].values()} == {None}
    assert document["images"]["cuda-engine"]["digest"].startswith("sha256:")
    assert document["images"]["cpu"]["digest"] is None


@pytest.mark.parametrize("verb", ["build", "verify"])
def test_without_an_engine_the_machine_lacks_something(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["images", verb, "cpu"]) == 4
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "[no-container-engine]" in shown.err
    assert "DOCKER_HOST" in shown.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["build", "cqu"], "did you mean 'cpu'?"),
        (["verify", "cuda-enjine"], "did you mean 'cuda-engine'?"),
        (["build", "--base", "x:1"], "--base is for one image"),
        (["build", "cpu", "--index-url", "https://me:secret@packages.example/simple"], "[secret]"),
        (["buidl"], "[usage]"),
    ],
)
def test_a_wrong_command_line_exits_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["images", *arguments]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert "me:secret" not in shown.err


def test_alone_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["images"]) == 0
    assert "verify" in capsys.readouterr().out
