from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from speculators.benchmark import guidellm
from tests.needs import needed


def scenario(concurrency: int) -> dict[str, Any]:
    return guidellm.scenario(
        endpoint="http://127.0.0.1:1",
        model="verifier",
        tokenizer=Path("/tokenizer"),
        prompts=Path("/prompts.jsonl"),
        requests=12,
        profile=guidellm.closed_loop(concurrency),
        body={"temperature": 0.0},
        max_tokens=64,
        report=Path("/report.json"),
    )["spec"]


def test_one_request_at_a_time_is_synchronous_and_more_are_streams() -> None:
    assert scenario(1)["profile"] == {"kind": "synchronous"}
    assert scenario(4)["profile"] == {"kind": "concurrent", "streams": [4]}


def test_progress_is_told_in_a_few_words_and_nothing_else_is() -> None:
    line = (
        "26-11-26 20:16:28|INFO     |guidellm.benchmark.progress:_log_update:420 - Benchmark 1 "
        "(concurrent@4): active | elapsed=28.4s | "
        "successful=7 errored=0 incomplete=0 | requests/s=0.27 output_tokens/s=14.99"
    )
    assert guidellm.progress(line) == "concurrent@4: 7 requests done, 14.99 tok/s"
    assert guidellm.progress("  GUIDELLM__MP_POLL_INTERVAL") == ""


def test_every_load_sends_the_same_rows_unshuffled() -> None:
    for spec in (scenario(1), scenario(4)):
        assert spec["data_loader"] == {"kind": "pytorch", "shuffle": False, "num_workers": 1}
        assert spec["constraints"] == [{"kind": "max_requests", "count": 12}]
        assert spec["backend"]["extras"] == {"body": {"temperature": 0.0}}


def test_the_scenario_is_one_that_guidellm_accepts() -> None:
    entrypoints = needed("guidellm.schemas.benchmark.entrypoints")
    parsed = entrypoints.BenchmarkScenario.model_validate({"spec": scenario(4)})
    assert parsed.spec.backend.max_tokens == 64
    assert parsed.spec.profile.streams == [4]


@pytest.mark.parametrize("name", ["throughput", "sweep"])
def test_its_own_profiles_are_ones_that_guidellm_accepts(name: str) -> None:
    entrypoints = needed("guidellm.schemas.benchmark.entrypoints")
    spec = scenario(1) | {"profile": guidellm.own_profile(name, 12)}
    parsed = entrypoints.BenchmarkScenario.model_validate({"spec": spec}).spec.profile
    assert (parsed.kind, parsed.max_concurrency) == (name, 12)


def test_settings_of_the_users_shell_do_not_reach_a_load() -> None:
    found = guidellm.environment({"GUIDELLM__SPEC": "x", "GUIDELLM__MP_POLL_INTERVAL": "9", "PATH": "/bin"})
    assert found == {"PATH": "/bin", **guidellm.SETTINGS}


def test_our_settings_are_ones_that_guidellm_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = needed("guidellm.settings")
    for name, value in guidellm.SETTINGS.items():
        monkeypatch.setenv(name, value)
    assert settings.Settings().mp_poll_interval == 1.0


def test_only_messages_are_handed_over() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    assert guidellm.prompt_rows([messages]) == [{"messages": messages}]
