"""The client of one launch, as its host sees it fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from speculators.documents import write_jsonl
from speculators.errors import StageError
from speculators.executors.base import Service
from speculators.executors.local import LocalExecutor
from speculators.stages.documents import StageInput
from speculators.stages.execution import execute


def test_a_server_that_never_gets_healthy_ends_the_launch_with_its_log(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "prompts" / "benchmark.jsonl", [{"id": "a", "messages": []}])
    talk = "import time; print('loading weights', flush=True); time.sleep(600)"
    service = Service("plain", lambda _: [sys.executable, "-c", talk], {}, tmp_path / "server.log")
    executor = LocalExecutor()
    with executor.serve(service) as endpoint:
        values = {
            "benchmark": {"requests": 1, "concurrency": [1], "max_tokens": 4, "warmup_requests": 0},
            "model": "verifier",
            "round": 1,
            "startup_timeout": 2,
            "stall_timeout": 2,
            "replayed": True,
            "launches": [
                {
                    "arm": "plain",
                    "endpoint": endpoint.url,
                    "speculative_tokens": 2,
                    "request_body": {},
                    "ask_all_before": False,
                }
            ],
        }
        inputs = {"prompts": tmp_path / "prompts", "verifier": tmp_path / "verifier"}
        step = StageInput("benchmark_round", values, inputs, {}, tmp_path / "client")
        with pytest.raises(StageError, match=r"not healthy within 2 s[\s\S]*\| loading weights") as caught:
            execute(executor, step, tmp_path, {}, label="round 1/1 plain", beside=[endpoint])
    assert caught.value.rule == "server-not-ready"
    assert "engine.startup_timeout" in caught.value.hint
