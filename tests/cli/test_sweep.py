"""``sweep`` on a run that lies there: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from speculators.benchmark import card as cards
from speculators.cli.app import main
from speculators.documents import read_json, write_json
from tests.benchmark.test_card import swept


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder, as far as a card needs one."""
    write_json(tmp_path / "run" / "run.json", {"status": "ok"})
    write_json(tmp_path / "run" / "bench" / "output.json", {"result": swept(1, 4, 16, 64)})
    return tmp_path / "run"


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    methods = {"proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 5}]}
    write_json(tmp_path / "draft" / "config.json", {"speculators_config": methods})
    return tmp_path / "draft"


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
    assert "at 2 loads the recommended setting loses at most" in shown
    assert "not measured (benchmark.depths): 4 tokens at 1 requests, 4 tokens at 4 requests" in shown
    assert "beyond 64 requests" in shown
    assert "Speedup card: run" in page.read_text(encoding="utf-8")
    setting = read_json(draft / "speculative-config.json")
    assert tokens_of(draft) == setting["num_speculative_tokens"]
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
