from __future__ import annotations

import math
import random

import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from speculators.benchmark.gate import REGRESSION, judge
from speculators.benchmark.noise import TRUTHS, Split, estimated_spreads, power, smallest_loss, split
from speculators.benchmark.statistics import mean_estimate

QUICK = settings(max_examples=30)


def rounds_of(noise: Split, rounds: int, prompts: int, seed: int) -> list[list[float]]:
    """Drawn logarithms with this noise, on prompts that differ much."""
    draw = random.Random(seed)
    levels = [draw.gauss(0, 1) for _ in range(prompts)]
    found = []
    for _ in range(rounds):
        luck = draw.gauss(0, math.sqrt(noise.between))
        found.append([level + luck + draw.gauss(0, math.sqrt(noise.within)) for level in levels])
    return found


def test_a_split_by_hand() -> None:
    # Rounds differ by 0.2 throughout; nothing is left for the requests.
    found = split([[1.0, 5.0, 2.0], [1.2, 5.2, 2.2]])
    assert found.between == pytest.approx(0.2**2 / 2)
    assert found.within == pytest.approx(0, abs=1e-15)


def test_noise_that_was_put_in_is_found() -> None:
    noise = Split(0.04**2, 0.08**2)  # far from 0, where estimates are cut off
    found = [split(rounds_of(noise, 9, 16, seed)) for seed in range(200)]
    assert sum(one.between for one in found) / 200 == pytest.approx(noise.between, rel=0.1)
    assert sum(one.within for one in found) / 200 == pytest.approx(noise.within, rel=0.02)


def test_what_is_only_the_requests_luck_is_not_the_launchs() -> None:
    found = [split(rounds_of(Split(0.0, 0.1**2), 5, 16, seed)) for seed in range(100)]
    assert sum(one.between for one in found) / 100 < 0.1 * 0.1**2


@given(st.integers(0, 10**6), st.lists(st.floats(-3, 3), min_size=6, max_size=6))
def test_what_prompts_differ_by_is_no_noise(seed: int, levels: list[float]) -> None:
    table = rounds_of(Split(0.01, 0.01), 4, 6, seed)
    other = [[value + level for value, level in zip(row, levels)] for row in table]
    assert split(other) == pytest.approx(split(table), abs=1e-9)


def test_an_estimate_stands_for_noises_whose_requests_are_as_they_were_seen() -> None:
    seen = split(rounds_of(Split(0.04**2, 0.08**2), 9, 16, 1))
    truths = seen.truths()
    assert math.fsum(weight for _, weight in truths) == pytest.approx(1)
    assert {truth.within for truth, _ in truths} == {seen.within}

    def uncertain(requests: int) -> float:
        """The largest spread of a round over the smallest that is possible."""
        spreads = [truth.of_round(requests) for truth, _ in truths]
        return max(spreads) / min(spreads)

    # Of as many requests as were measured it is chi square; a request's own share is known better.
    estimates, _ = estimated_spreads(seen.degrees, TRUTHS)
    assert uncertain(16) == pytest.approx(max(estimates) / min(estimates))
    assert uncertain(2) < uncertain(16) < uncertain(64)


def test_a_known_noise_stands_for_itself() -> None:
    known = Split(0.04**2, 0.08**2)
    assert known.truths() == [(known, 1.0)]


def test_a_launch_estimated_to_have_less_than_no_noise_has_none() -> None:
    assert Split(-0.01, 0.16).of_round(16) == pytest.approx(0.1)


@pytest.mark.parametrize("table", [[], [[1.0, 2.0]], [[1.0], [2.0]], [[1.0, 2.0], [1.0]]])
def test_a_table_that_cannot_be_split(table: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"every round|at least two"):
        split(table)


@given(st.floats(0.005, 0.2), st.floats(0.002, 0.1), st.integers(3, 12), st.floats(0.005, 0.1))
@QUICK
def test_without_a_tolerance_the_power_is_that_of_the_t_test(
    loss: float, spread: float, rounds: int, alpha: float
) -> None:
    shift = math.log1p(-loss) / (spread / math.sqrt(rounds))
    expected = scipy.stats.nct.cdf(scipy.stats.t.ppf(alpha, rounds - 1), rounds - 1, shift)
    assert power(loss, spread, rounds, 0.0, alpha) == pytest.approx(expected, abs=2e-4)


def test_the_power_is_how_often_the_rule_says_regression() -> None:
    draw, alpha, gates = random.Random(1), 0.0125, 4000
    said = [
        judge(mean_estimate([draw.gauss(math.log1p(-0.05), 0.03) for _ in range(7)]), 0.03, alpha).verdict
        for _ in range(gates)
    ]
    expected = power(0.05, 0.03, 7, 0.03, alpha)
    assert said.count(REGRESSION) / gates == pytest.approx(expected, abs=4 * math.sqrt(0.25 / gates))


@given(st.floats(0.002, 0.1), st.integers(3, 12), st.floats(0.0, 0.05))
@QUICK
def test_the_smallest_loss_is_found_as_often_as_wanted(spread: float, rounds: int, tolerance: float) -> None:
    loss = smallest_loss(spread, rounds, tolerance)
    assert loss is not None
    assert loss > tolerance
    assert power(loss, spread, rounds, tolerance) == pytest.approx(0.8, abs=1e-2)


def test_noise_that_hides_everything() -> None:
    assert smallest_loss(5.0, 3, 0.03) is None
    assert smallest_loss(0.0, 3, 0.03) == 0.03
