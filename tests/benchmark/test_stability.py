"""Signs that a benchmark's rounds are not of one kind, and the counters they are read from."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import scipy.stats

from speculators.benchmark.machine_state import read_clock, read_ticks, watched
from speculators.benchmark.stability import slope, warnings

QUIET = {"others_cores": 0.02, "steal": 0.0, "throttled": False, "clock_mhz": 2400.0}
ON_GPUS = {**QUIET, "gpu_clock_mhz": 1980.0, "gpu_processes_of_others": 0}
Warn = Callable[..., list[str]]


@pytest.fixture
def warned(benchmark_document: Callable[..., dict[str, Any]]) -> Warn:
    def warn(plain: Sequence[float], machine: dict[str, Any] | None = None) -> list[str]:
        document = benchmark_document([(speed, 1.3 * speed) for speed in plain])
        rounds = [{"round": n, "arm": "plain", "machine": QUIET} for n in range(1, len(plain) + 1)]
        rounds[-1]["machine"] = {**QUIET, **(machine or {})}
        return warnings({**document, "rounds": rounds})

    return warn


STEADY = [10.0, 10.1, 9.9, 10.05, 9.95, 10.0]


def test_a_steady_machine_is_not_warned_of(warned: Warn) -> None:
    assert warned(STEADY) == []


def test_a_steady_slow_down_is_a_drift(warned: Warn) -> None:
    (found,) = warned([10.0 * 0.98**step for step in range(6)])
    assert found == "drift: plain serving became 9.6% slower over the rounds"


def test_a_trend_that_may_be_chance_is_none(warned: Warn) -> None:
    assert warned([10.0, 9.0, 10.4, 9.2, 10.1, 9.4]) == []


def test_a_first_round_unlike_the_others_is_named(warned: Warn) -> None:
    (found,) = warned([7.0, *STEADY[1:]])
    assert found == "the first round's plain speed is -30.0% off the others'"


def test_few_rounds_are_named(warned: Warn) -> None:
    assert warned(STEADY[:3]) == ["rounds: 3; with fewer than 5 little is known of the spread"]


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        ({"others_cores": 1.3}, "other load before 1 of 6 launches: up to 1.3 cores busy (round 6 plain)"),
        ({"steal": 0.08}, "the host took up to 8.0% of the processor's time (round 6 plain)"),
        ({"throttled": True}, "throttling in 1 of 6 launches, first in round 6 plain"),
        ({"clock_mhz": 2000.0}, "processor clocks between 2000 and 2400 MHz"),
    ],
)
def test_what_the_machine_tells_is_passed_on(warned: Warn, seen: dict[str, Any], says: str) -> None:
    assert warned(STEADY, seen) == [says]


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        ({"gpu_clock_mhz": 1400.0}, ["GPU clocks between 1400 and 1980 MHz"]),
        ({"clock_mhz": 900.0}, []),  # a processor that has little to do slows down
        (
            {"gpu_processes_of_others": 2},
            ["processes of others on the GPUs before 1 of 6 launches: up to 2 (round 6 plain)"],
        ),
    ],
)
def test_gpus_are_watched_apart_from_the_processor(
    benchmark_document: Callable[..., dict[str, Any]], seen: dict[str, Any], says: list[str]
) -> None:
    document = benchmark_document([(speed, 1.3 * speed) for speed in STEADY])
    rounds = [{"round": n, "arm": "plain", "machine": ON_GPUS} for n in range(1, 7)]
    rounds[-1]["machine"] = ON_GPUS | seen
    assert warnings({**document, "rounds": rounds}) == says


def test_what_the_machine_does_not_tell_is_no_warning(warned: Warn) -> None:
    assert warned(STEADY, dict.fromkeys(QUIET)) == []


def test_the_slope_is_scipys() -> None:
    draw = random.Random(0)
    values = [0.1 * step + draw.gauss(0, 1) for step in range(9)]
    found = scipy.stats.linregress(range(9), values)
    assert slope(values) == pytest.approx((found.slope, found.stderr))


def test_the_processors_time_is_read_from_its_first_line() -> None:
    text = "cpu  100 5 20 800 10 1 4 60 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"
    assert read_ticks(text) == (130, 60, 1000)


def test_clocks_are_averaged_over_cores() -> None:
    assert read_clock("model name : x\ncpu MHz\t\t: 2000.0\ncpu MHz\t\t: 3000.0\n") == 2500.0
    assert read_clock("nothing of the kind\n") is None


def test_work_is_watched_on_this_machine() -> None:
    result, seen = watched(lambda: "done")
    assert result == "done"
    assert set(seen) == {*QUIET, "gpu_clock_mhz"}
    assert 0 <= seen["others_cores"] <= 512
