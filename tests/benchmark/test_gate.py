"""The gate's rule at one look; what it does over many is measured by benchmarks/gate_calibration.py."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculators.benchmark.gate import OK, REGRESSION, UNDECIDED, judge, spent, worst
from speculators.benchmark.statistics import Estimate, mean_estimate

changes = st.lists(st.floats(-0.5, 0.5), min_size=2, max_size=12)
tolerances = st.floats(0.001, 0.2)


@pytest.mark.parametrize(
    ("mean", "error", "verdict"),
    [
        (-0.06, 0.01, REGRESSION),  # certain and large
        (-0.02, 0.001, OK),  # certainly a loss, but a tolerated one
        (-0.06, 0.06, UNDECIDED),  # large, but may be noise
        (0.0, 0.001, OK),
        (0.0, 0.03, UNDECIDED),  # as good as before, but 3 % of loss are not excluded
        (0.2, 0.01, OK),
        (-0.031, 0.001, REGRESSION),
        (-0.030, 0.001, UNDECIDED),  # within the tolerance, but not certainly
    ],
)
def test_a_verdict_needs_size_and_certainty(mean: float, error: float, verdict: str) -> None:
    assert judge(Estimate(mean, error, 4), 0.03).verdict == verdict


def test_without_any_noise_the_tolerance_decides() -> None:
    assert judge(mean_estimate([-0.05] * 5), 0.03).verdict == REGRESSION
    assert judge(mean_estimate([-0.01] * 5), 0.03).verdict == OK


@given(changes, tolerances)
def test_the_bounds_hold_the_change_and_the_rule_is_the_rule(values: list[float], tolerance: float) -> None:
    judged = judge(mean_estimate(values), tolerance)
    assert judged.low <= judged.change + 1e-12
    assert judged.change <= judged.high + 1e-12
    if judged.verdict == REGRESSION:
        assert judged.high < 0
        assert judged.change < -tolerance
    assert (judged.verdict == OK) == (judged.low > -tolerance) or judged.low == pytest.approx(-tolerance)


@given(changes, tolerances, st.floats(0.001, 0.3))
def test_a_worse_result_never_gets_a_better_verdict(
    values: list[float], tolerance: float, loss: float
) -> None:
    before = judge(mean_estimate(values), tolerance)
    after = judge(mean_estimate([value - loss for value in values]), tolerance)
    assert not (before.verdict == REGRESSION and after.verdict != REGRESSION)
    assert not (after.verdict == OK and before.verdict != OK)


@given(changes, tolerances)
def test_spending_less_never_decides_more(values: list[float], tolerance: float) -> None:
    whole, part = (judge(mean_estimate(values), tolerance, alpha) for alpha in (0.05, spent(4)))
    assert part.verdict in (UNDECIDED, whole.verdict)


@given(changes)
def test_a_change_is_relative(values: list[float]) -> None:
    assert judge(mean_estimate(values), 0.03).change == pytest.approx(
        math.exp(math.fsum(values) / len(values)) - 1, abs=1e-9
    )


def test_one_regression_is_enough_and_one_doubt_forbids_an_ok() -> None:
    assert worst([OK, UNDECIDED, REGRESSION]) == REGRESSION
    assert worst([OK, UNDECIDED]) == UNDECIDED
    assert worst([OK, OK]) == OK
