"""What a recipe expects beside what came."""

from __future__ import annotations

from typing import Any

import pytest

from speculators.report.document import gpu_count
from speculators.report.expectations import expectations, sentence

STAGES = [
    {"name": "verifier", "seconds": 7200.0, "bytes": 1_000_000_000},
    {"name": "training", "seconds": 3600.0, "bytes": 500_000_000},
    {"name": "benchmark", "seconds": 1800.0},
]
SUMMARY: dict[str, Any] = {
    "acceptance": {"served": {"acceptance_length": 2.31}},
    "speed": [
        {"concurrency": 4, "speedup": {"mean": 0.9}},
        {"concurrency": 1, "speedup": {"mean": 1.4}},
    ],
}


def rows(expect: dict[str, Any], gpus: int = 2, summary: dict[str, Any] = SUMMARY) -> dict[str, Any]:
    sourced = {name: {"source": "a card", **one} for name, one in expect.items()}
    return {row["name"]: row for row in expectations(sourced, summary, STAGES, gpus)}


@pytest.mark.parametrize(
    ("name", "bounds", "met"),
    [
        ("acceptance_length", {"low": 2.0, "high": 2.6}, True),
        ("acceptance_length", {"low": 2.4}, False),
        ("speedup", {"low": 1.34, "high": 1.75}, True),
        ("speedup", {"high": 1.3}, False),
        ("gpu_hours", {"high": 3.0}, True),  # an hour and a half on two; the verifier's stage needs none
        ("gpu_hours", {"high": 2.9}, False),
        ("disk_gb", {"low": 1.5, "high": 1.5}, True),
    ],
)
def test_a_figure_is_in_its_range_or_not(name: str, bounds: dict[str, float], met: bool) -> None:
    assert rows({name: bounds})[name]["met"] is met


def test_what_was_not_measured_is_neither_hit_nor_miss() -> None:
    nothing = {"acceptance": {"served": None}, "speed": [{"concurrency": 1, "speedup": None}]}
    expect = {"acceptance_length": {"low": 2}, "speedup": {"low": 1}, "gpu_hours": {"high": 1}}
    found = rows(expect, 0, nothing)
    assert [row["met"] for row in found.values()] == [None, None, None]
    assert sentence(found["speedup"]) == "speedup at one request not measured: at least 1 expected (a card)"


def test_the_sentence_says_range_and_source() -> None:
    hit = rows({"acceptance_length": {"low": 2, "high": 2.6}})["acceptance_length"]
    miss = rows({"acceptance_length": {"high": 2}})["acceptance_length"]
    assert sentence(hit) == "acceptance length 2.31: as expected, 2 to 2.6 (a card)"
    assert sentence(miss) == "acceptance length 2.31: NOT as expected, at most 2 (a card)"


def test_gpus_are_those_a_stage_had() -> None:
    record = {"machine": {"gpus": "2 x NVIDIA H100, 1 x NVIDIA A100"}}
    assert gpu_count({"executor": "local"}, record) == 3
    assert gpu_count({"executor": "docker", "container": {"gpus": 1}}, record) == 1
    assert gpu_count({"executor": "docker", "container": {"gpus": "all"}}, record) == 3
    assert gpu_count({"executor": "local"}, {"machine": {}}) == 0
