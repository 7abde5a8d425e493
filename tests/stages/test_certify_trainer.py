"""A question that takes its process down has failed; the others are answered all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from speculators.stages import certify_trainer
from speculators.stages.documents import StageInput
from speculators.training.parallel import KINDS
from tests.training.processes import faults_in_half_precision, faults_together


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StageInput:
    monkeypatch.setattr(certify_trainer, "fast_in_process", faults_in_half_precision)
    monkeypatch.setattr(certify_trainer, "learn_in_rank", faults_together)
    # A machine that does other things takes its time to start processes.
    for limit in ("ALL_SECONDS", "ANSWER_SECONDS"):
        monkeypatch.setattr(certify_trainer, limit, 900.0)
    return StageInput("certify_trainer", {"device": "cpu"}, {}, {}, tmp_path)


def test_what_takes_its_process_down_is_a_failed_check(step: StageInput) -> None:
    found = certify_trainer.run(step)
    assert found["objective"] == {"float32": "fast", "bfloat16": "oracle"}
    assert found["parallelism"] == dict.fromkeys(KINDS, False)
    fast, together = "rank 0 of 1 was killed by SIGSEGV", "of 2 was killed by SIGBUS"
    causes = [check["cause"] for check in found["checks"] if not check["ok"]]
    assert all(cause == fast or cause.endswith(together) for cause in causes)
    assert causes.count(fast) == 3
    assert found["name"] == "a GPU"


def test_no_question_outlives_the_time_of_all(step: StageInput, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certify_trainer, "ALL_SECONDS", 0.0)
    found = certify_trainer.run(step)
    assert found["objective"] == {"float32": "oracle", "bfloat16": "oracle"}
    assert {check["cause"] for check in found["checks"]} == {"no answer in 0 s"}
