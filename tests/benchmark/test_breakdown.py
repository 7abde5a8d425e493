"""Acceptance by what was asked, and what serving is worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from speculators.benchmark.breakdown import asked_random, breakdown, bucket
from speculators.benchmark.checks import capture_sizes
from speculators.benchmark.service import service
from speculators.benchmark.summary import summarise
from speculators.datagen.prompt_sets import RANDOM
from tests.benchmark.conftest import request, sample, spec


def counted() -> list[dict[str, Any]]:
    """Two rounds of a short poem and two long programs."""
    rows = [
        request("poem", group="poems", prompt_tokens=20, spec=spec(10, 1, 0)),
        request("sort", group="code", prompt_tokens=300, spec=spec(10, 8, 4)),
        request("join", group="code", prompt_tokens=70, spec=spec(10, 6, 2)),
    ]
    return [sample(number, "draft", 1, 10.0, rows) for number in (1, 2)]


def test_groups_and_lengths_are_pooled_over_their_prompts() -> None:
    found = breakdown(counted())
    assert {one["name"]: one["acceptance_length"] for one in found["by_group"]} == {"code": 2.0, "poems": 1.1}
    assert [(one["name"], one["prompts"], one["drafts"]) for one in found["by_prompt_length"]] == [
        ("0-63", 1, 20),
        ("64-127", 1, 20),
        ("256-511", 1, 20),
    ]


def test_data_sets_are_told_apart_and_random_text_is_known() -> None:
    rows = [
        request("h/1", dataset="humaneval", group="humaneval", spec=spec(10, 8, 4)),
        request("g/1", dataset="gsm8k", group="gsm8k", spec=spec(10, 1, 0)),
        request("g/2", dataset="gsm8k", group="gsm8k", spec=spec(10, 3, 0)),
    ]
    found = breakdown([sample(1, "draft", 1, 10.0, rows)])
    assert [(one["name"], one["prompts"], one["acceptance_length"]) for one in found["by_dataset"]] == [
        ("gsm8k", 2, 1.2),
        ("humaneval", 1, 2.2),
    ]
    assert breakdown(counted())["by_dataset"] == []
    assert not asked_random([sample(1, "draft", 1, 10.0, rows)])
    assert asked_random([sample(1, "draft", 1, 10.0, [request("r", dataset=RANDOM)])])


def test_every_request_has_its_own_figures() -> None:
    (poem, sort, _) = breakdown(counted())["by_request"]
    assert (poem["id"], poem["prompt_tokens"], poem["acceptance_length"]) == ("poem", 20, 1.1)
    assert sort["per_position"] == [0.8, 0.4]


def test_what_was_not_counted_is_not_shown() -> None:
    rows = [request("a"), request("b", spec=spec(10, 5))]
    found = breakdown([sample(1, "draft", 1, 10.0, rows)])
    assert [one["id"] for one in found["by_request"]] == ["b"]
    assert found["by_group"] == found["by_prompt_length"] == []


@pytest.mark.parametrize(
    ("tokens", "name"), [(0, "0-63"), (63, "0-63"), (64, "64-127"), (1024, "1024-2047"), (None, None)]
)
def test_lengths_are_bucketed_by_doubling(tokens: int | None, name: str | None) -> None:
    assert bucket(tokens) == name


def a_load(speed: float, *ttft: float | None) -> dict[str, Any]:
    rows = [request(str(place), ttft_ms=one) for place, one in enumerate(ttft)]
    return sample(1, "plain", 1, speed, rows, wall_seconds=2.0)


def test_the_cost_is_what_a_million_tokens_occupy_the_machine_for() -> None:
    assert service([a_load(500.0, 1.0)], {})["machine_seconds_per_million_tokens"] == pytest.approx(2000)


def test_goodput_counts_requests_that_kept_every_limit() -> None:
    found = service([a_load(10.0, 90.0, 110.0, None), a_load(10.0, 80.0, 70.0, 60.0)], {"ttft_ms": 100.0})
    assert found["goodput"] == {"requests_per_second": 1.0, "share": pytest.approx(4 / 6)}
    assert service([a_load(10.0, 1.0)], {})["goodput"] is None  # no limit is stated
    failed = {**a_load(10.0, 90.0), "errored": 3}
    assert service([failed], {"ttft_ms": 100.0})["goodput"]["share"] == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    ("args", "ok"),
    [
        ({"enforce_eager": True}, True),
        ({}, True),  # 64 requests of 4 tokens, vLLM's ceiling is 512
        ({"compilation_config": {"max_cudagraph_capture_size": 128}}, False),
        ({"compilation_config": {"cudagraph_mode": "NONE", "max_cudagraph_capture_size": 128}}, True),
        ({"compilation_config": {"cudagraph_capture_sizes": [1, 64, 256]}}, True),
        ({"compilation_config": {"max_cudagraph_capture_size": 128}, "max_num_seqs": 32}, True),
    ],
)
def test_the_widest_step_must_fit_the_captured_graphs(
    benchmark_document: Callable[..., dict[str, Any]], args: dict[str, Any], ok: bool
) -> None:
    document = benchmark_document([(10.0, 12.0)], launcher={"engine": "vllm"})
    document["benchmark"]["concurrency"] = [1, 64]
    assert capture_sizes(document, args, tokens=3)["ok"] is ok
    assert capture_sizes(document, {}, tokens=9)["ok"] is None  # 640 tokens: within one machine's ceiling
    assert capture_sizes(document, {}, tokens=19)["ok"] is False


def test_the_summary_holds_them_all(benchmark_document: Callable[..., dict[str, Any]]) -> None:
    document = benchmark_document([(10.0, 12.0), (10.0, 13.0)])
    for one in document["samples"]:
        one["wall_seconds"] = 3.0
    document["benchmark"]["slo"] = {"latency_ms": 1.0}
    found = summarise(document)
    (speed,) = found["speed"]
    assert speed["service"]["plain"]["goodput"]["share"] == 0.0
    assert speed["service"]["plain"]["machine_seconds_per_million_tokens"] == pytest.approx(100_000)
    assert len(found["acceptance"]["by_request"]) == 3
    assert found["exact_match"]["relative"] == pytest.approx(2 / 3)
