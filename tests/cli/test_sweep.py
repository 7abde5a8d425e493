"""``sweep`` on a run that lies there: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from speculators.benchmark import card as cards
from speculators.cli.app import main
from speculators.documents import file_digest, read_json, write_json
from tests.benchmark.test_card import of_two_rounds


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    methods = [{"proposal_type": "greedy", "speculative_tokens": 5}]
    block = {"proposal_methods": methods, "verifier": {"name_or_path": "owner/verifier"}}
    config = {"speculators_model_type": "eagle3", "speculators_config": block}
    write_json(tmp_path / "draft" / "config.json", config)
    (tmp_path / "draft" / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "draft"


def a_run(draft: Path, *loads: int) -> Path:
    """The folder of a run that measured ``draft`` at these loads, as far as a card needs one."""
    run = draft.with_name("run")
    sealed = {"model/model.safetensors": {"sha256": file_digest(draft / "model.safetensors")}}
    write_json(run / "run.json", {"status": "ok"})
    write_json(run / "stages" / "package" / "output.json", {"files": sealed})
    write_json(run / "bench" / "output.json", {"result": of_two_rounds(*loads)})
    return run


@pytest.fixture
def run(draft: Path) -> Path:
    return a_run(draft, 1, 4, 64, 256)


def tokens_of(draft: Path) -> Any:
    config = read_json(draft / "config.json")
    return config["speculators_config"]["proposal_methods"][0]["speculative_tokens"]


def test_the_setting_is_printed_put_on_a_page_and_written(
    run: Path, draft: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "card.html"
    assert main(["sweep", str(run), "--html", str(page), "--write", str(draft)]) == 0
    shown = capsys.readouterr().out
    assert "requests at a time: propose" in shown
    assert "at 4 loads the recommended setting loses at most 0.0% against the best measured one" in shown
    assert "no server was measured with a schedule" in shown
    assert "widest load that was measured (256 at a time)" in shown
    assert "Speedup card: run" in page.read_text(encoding="utf-8")
    setting = read_json(draft / "speculative-config.json")
    assert tokens_of(draft) == setting["num_speculative_tokens"]
    assert len(setting["num_speculative_tokens_per_batch_size"]) > 1
    assert main(["sweep", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["speculative_config"] == setting


def test_a_run_whose_comparison_was_broken_makes_no_card(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(run / "run.json", {"status": "failed"})
    assert main(["sweep", str(run)]) == 2
    assert "ended as 'failed'" in " ".join(capsys.readouterr().err.split())


def test_a_schedule_that_vllm_refuses_is_not_written(
    run: Path, draft: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cards, "schedule_checked", lambda card: False)
    assert main(["sweep", str(run), "--write", str(draft)]) == 2
    assert "refuses the schedule" in capsys.readouterr().err
    assert tokens_of(draft) == 5


def test_what_was_written_is_said_and_that_no_vllm_checked_it(
    run: Path, draft: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cards, "schedule_checked", lambda card: None)
    assert main(["sweep", str(run), "--write", str(draft), "--json"]) == 0
    said = capsys.readouterr()
    assert f"written into {draft}: config.json, speculative-config.json" in said.err
    assert "note: there is no vLLM here" in said.err
    assert json.loads(said.out)["checked_by_vllm"] is None


def test_another_draft_is_not_told_how_to_propose(
    run: Path, draft: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (draft / "model.safetensors").write_bytes(b"others")
    assert main(["sweep", str(run), "--write", str(draft)]) == 2
    assert "another draft than the one that was measured" in " ".join(capsys.readouterr().err.split())
    assert tokens_of(draft) == 5


def test_the_checkpoint_of_a_run_stays_as_it_was_sealed(
    run: Path, draft: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = draft.rename(run / "model")
    assert main(["sweep", str(run), "--write", str(own)]) == 2
    assert f"cp -r {own} my-draft" in " ".join(capsys.readouterr().err.split())
    assert tokens_of(own) == 5


def test_a_folder_is_no_page(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(run), "--html", str(tmp_path)]) == 2
    assert "is a directory" in " ".join(capsys.readouterr().err.split())


def test_one_number_for_all_loads_is_written_without_a_schedule(
    draft: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(a_run(draft, 1, 2)), "--write", str(draft)]) == 0
    said = capsys.readouterr()
    assert list(read_json(draft / "speculative-config.json")) == ["num_speculative_tokens"]
    assert "there is no vLLM here" not in said.err + said.out


def test_the_checkpoint_of_a_run_stands_for_the_run(
    run: Path, draft: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft.rename(run / "model")
    assert main(["sweep", str(run / "model")]) == 0
    assert "requests at a time: propose" in capsys.readouterr().out


def test_a_checkpoint_that_no_run_measured_is_told_the_two_commands(
    draft: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(draft)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"'draft: {draft}'" in said
    assert "speculators run my.yaml --set benchmark.depths=[1,2,3,4]" in said
    assert "speculators sweep runs/NAME/latest" in said


def test_a_recipe_is_told_the_two_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("name: mine\n", encoding="utf-8")
    assert main(["sweep", str(recipe)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "mine.yaml: a recipe; a card is made from a run" in said
    assert "mine.yaml --set benchmark.depths=" in said
