from __future__ import annotations

import math
import statistics

import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st

from speculators.benchmark.statistics import (
    Estimate,
    geometric_mean,
    match_rate,
    mean_estimate,
    mean_ratio,
    percentile,
    relative_difference,
    t_quantile,
    welch,
)

ratios = st.lists(st.floats(0.05, 20), min_size=2, max_size=12)
logs = st.lists(st.floats(-1, 1).map(lambda value: round(value, 6)), min_size=2, max_size=12)
alphas = st.floats(0.001, 0.4)


def test_t_quantiles_are_those_of_the_printed_tables() -> None:
    assert [round(t_quantile(0.975, degrees), 3) for degrees in (1, 2, 4, 6, 30)] == [
        12.706,
        4.303,
        2.776,
        2.447,
        2.042,
    ]


def test_a_known_interval() -> None:
    # logs -0.1, 0, 0.1: mean 0, standard deviation 0.1, so half = 4.3027 * 0.1 / sqrt(3)
    ratio = mean_ratio([math.exp(-0.1), 1.0, math.exp(0.1)])
    assert ratio.mean == pytest.approx(1.0)
    assert ratio.low is not None
    assert math.log(ratio.low) == pytest.approx(-0.248414, abs=1e-6)
    assert ratio.rounds == 3


@given(logs, alphas)
def test_one_sided_bounds_are_scipys(values: list[float], alpha: float) -> None:
    assume(len(set(values)) > 1)
    estimate = mean_estimate(values)
    below = scipy.stats.ttest_1samp(values, 0, alternative="greater").confidence_interval(1 - alpha).low
    above = scipy.stats.ttest_1samp(values, 0, alternative="less").confidence_interval(1 - alpha).high
    assert estimate.below(alpha) == pytest.approx(below, abs=1e-9)
    assert estimate.above(alpha) == pytest.approx(above, abs=1e-9)


@given(logs, logs, alphas)
def test_welch_is_scipys(new: list[float], old: list[float], alpha: float) -> None:
    assume(len(set(new)) > 1)
    assume(len(set(old)) > 1)
    estimate = welch(new, old)
    theirs = scipy.stats.ttest_ind(new, old, equal_var=False, alternative="less")
    assert estimate.degrees == pytest.approx(theirs.df)
    assert estimate.mean / estimate.error == pytest.approx(theirs.statistic)
    assert estimate.above(alpha) == pytest.approx(theirs.confidence_interval(1 - alpha).high, abs=1e-9)


@given(logs, logs)
def test_welch_is_antisymmetric_and_never_surer_than_pooling_all_degrees(
    new: list[float], old: list[float]
) -> None:
    one, other = welch(new, old), welch(old, new)
    assert one.mean == pytest.approx(-other.mean)
    assert one.error == other.error
    assert min(len(new), len(old)) - 1 <= one.degrees + 1e-9
    assert one.degrees <= len(new) + len(old) - 2 + 1e-9


def test_without_spread_the_bounds_are_the_mean() -> None:
    assert mean_estimate([0.1, 0.1, 0.1]).below(0.05) == pytest.approx(0.1)
    assert welch([0.2, 0.2], [0.1, 0.1]) == Estimate(pytest.approx(0.1), 0.0, 2)


def test_less_spread_than_is_known_is_not_believed() -> None:
    agreeing, spread = [0.100, 0.101, 0.099], [0.0, 0.2]
    assert mean_estimate(agreeing, known=0.03).error == pytest.approx(0.03 / math.sqrt(3))
    assert mean_estimate(spread, known=0.03) == mean_estimate(spread)
    assert welch(agreeing, spread, known=0.03).error > welch(agreeing, spread).error


@pytest.mark.parametrize("few", [[], [0.1]])
def test_an_error_needs_two_values(few: list[float]) -> None:
    with pytest.raises(ValueError, match="at least two"):
        mean_estimate(few)
    with pytest.raises(ValueError, match="at least two"):
        welch([0.1, 0.2], few)


def test_one_round_has_no_interval() -> None:
    assert mean_ratio([1.3]) == (pytest.approx(1.3), None, None, 1)


@pytest.mark.parametrize("wrong", [[], [1.0, 0.0], [-1.0]])
def test_ratios_must_exist_and_be_positive(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match=r"."):
        mean_ratio(wrong)


@given(ratios)
def test_the_interval_holds_the_mean_and_swapping_the_arms_inverts_it(values: list[float]) -> None:
    ratio, swapped = mean_ratio(values), mean_ratio([1 / value for value in values])
    assert ratio.low is not None
    assert ratio.high is not None
    assert swapped.high is not None
    assert ratio.low <= ratio.mean * (1 + 1e-9)
    assert ratio.mean <= ratio.high * (1 + 1e-9)
    assert math.log(ratio.low) == pytest.approx(-math.log(swapped.high), abs=1e-6)


@given(ratios, st.floats(0.1, 10))
def test_an_arm_that_is_faster_by_a_factor_moves_mean_and_interval_by_it(
    values: list[float], factor: float
) -> None:
    before, after = mean_ratio(values), mean_ratio([factor * value for value in values])
    assert after.mean == pytest.approx(factor * before.mean)
    assert before.low is not None
    assert after.low == pytest.approx(factor * before.low)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50))
def test_percentiles_agree_with_the_standard_library(values: list[float]) -> None:
    expected = statistics.quantiles(values, n=100, method="inclusive")
    for rank in (50, 95, 99):
        assert percentile(values, rank) == pytest.approx(expected[rank - 1], abs=1e-6)


def test_percentiles_of_one_value_and_of_none() -> None:
    assert percentile([3.0], 99) == 3.0
    with pytest.raises(ValueError, match="at least one"):
        percentile([], 50)


def test_small_sums() -> None:
    assert geometric_mean([1, 4]) == pytest.approx(2)
    assert relative_difference(0.9, 1.0) == pytest.approx(-0.1)
    assert match_rate(["a", "b"], ["a", "c"]) == 0.5
    assert match_rate([], []) is None
