"""The client of one launch: a load that no longer moves is ended, one that does is left alone."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from speculators.documents import write_jsonl
from speculators.errors import StageError
from speculators.executors.base import Service
from speculators.executors.local import LocalExecutor
from speculators.stages.benchmark_round import _in_turn, _watched
from speculators.stages.documents import StageInput
from speculators.stages.execution import execute


class Server:
    """Counts a token at each look until it has made ``most``."""

    def __init__(self, most: int) -> None:
        self.most, self.made = most, 0

    def tokens(self) -> int | None:
        self.made = min(self.made + 1, self.most)
        return self.made


def watched(tmp_path: Path, server: Server, seconds: float) -> int:
    this: Any = SimpleNamespace(output=tmp_path, stall_timeout=1.0)
    arm: Any = SimpleNamespace(name="plain", client=server)
    return _watched(this, [arm], [sys.executable, "-c", f"import time; time.sleep({seconds})"], {})


def test_a_server_without_a_new_token_hangs_and_ends_the_load(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(StageError, match=r"hangs: no token of plain within 1 s") as caught:
        watched(tmp_path, Server(most=2), seconds=60)
    assert caught.value.rule == "server-stalled"
    assert time.monotonic() - started < 10


def test_a_slow_server_that_makes_tokens_is_waited_for(tmp_path: Path) -> None:
    assert watched(tmp_path, Server(most=100), seconds=3) == 0


def test_arms_whose_requests_carry_the_same_are_asked_in_turn_and_others_apart() -> None:
    greedy, drawn = {"temperature": 0.0, "seed": 0}, {"temperature": 0.6, "seed": 0}
    arms: list[Any] = [
        SimpleNamespace(name=name, body=dict(body))
        for name, body in (("draft", greedy), ("sampled-plain", drawn), ("plain", greedy))
    ]
    groups = [[arm.name for arm in group] for group in _in_turn(arms)]
    assert groups == [["draft", "plain"], ["sampled-plain"]]


def test_one_of_two_servers_that_makes_tokens_is_enough_to_go_on(tmp_path: Path) -> None:
    this: Any = SimpleNamespace(output=tmp_path, stall_timeout=1.0)
    arms: list[Any] = [SimpleNamespace(name=str(most), client=Server(most)) for most in (0, 100)]
    assert _watched(this, arms, [sys.executable, "-c", "import time; time.sleep(3)"], {}) == 0
    arms[1] = SimpleNamespace(name="2", client=Server(2))
    with pytest.raises(StageError, match="no token of 0 nor 2 within 1 s"):
        _watched(this, arms, [sys.executable, "-c", "import time; time.sleep(60)"], {})


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
                    "must_draft": True,
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
