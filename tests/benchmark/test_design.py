"""The cheapest gate that finds a loss: when it looks, and how many requests its rounds have."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speculators.benchmark.design import Cost, Design, assured, cheapest, played
from speculators.benchmark.figures import Rounds
from speculators.benchmark.gate import LOOKS, REGRESSION, UNDECIDED, judge, spent
from speculators.benchmark.noise import Split, power
from speculators.benchmark.statistics import mean_estimate


def rounds_of(design: Design) -> int:
    return design.looks[-1]


@pytest.mark.parametrize(("loss", "spread"), [(0.05, 0.04), (0.0, 0.02)])
def test_what_is_played_is_the_gates_own_rule(loss: float, spread: float) -> None:
    draw, gates = random.Random(2), 1500
    found, rounds = 0, 0
    for _ in range(gates):
        changes = [draw.gauss(math.log1p(-loss), spread) for _ in range(LOOKS[-1])]
        for look in LOOKS:
            said = judge(mean_estimate(changes[:look]), 0.03, spent(len(LOOKS))).verdict
            if said != UNDECIDED:
                break
        found += said == REGRESSION
        rounds += look
    expected = played(loss, spread, LOOKS, 0.03)
    assert found / gates == pytest.approx(expected.found, abs=4 * math.sqrt(0.25 / gates))
    assert rounds / gates == pytest.approx(expected.rounds, abs=0.4)


@pytest.mark.parametrize(("loss", "spread"), [(0.05, 0.03), (0.0, 0.03), (0.08, 0.04)])
def test_against_a_stored_baseline_it_is_that_ones_rule(loss: float, spread: float) -> None:
    draw, gates, before = random.Random(4), 1500, 12
    found, rounds = 0, 0
    for _ in range(gates):
        old = [draw.gauss(0, spread) for _ in range(before)]
        new = [draw.gauss(math.log1p(-loss), spread) for _ in range(LOOKS[-1])]
        for look in LOOKS:
            change = Rounds(old, new[:look]).change()
            said = judge(change, 0.03, spent(len(LOOKS))).verdict
            if said != UNDECIDED:
                break
        found += said == REGRESSION
        rounds += look
    expected = played(loss, spread, LOOKS, 0.03, before=before)
    assert found / gates == pytest.approx(expected.found, abs=4 * math.sqrt(0.25 / gates))
    assert rounds / gates == pytest.approx(expected.rounds, abs=0.4)


@given(st.floats(0.01, 0.1), st.floats(0.005, 0.08), st.integers(3, 20))
@settings(max_examples=20)
def test_one_look_has_the_power_of_the_formula(loss: float, spread: float, rounds: int) -> None:
    assert played(loss, spread, (rounds,), 0.03).found == pytest.approx(
        power(loss, spread, rounds, 0.03), abs=0.04
    )


def test_when_launches_are_alike_requests_are_bought_and_otherwise_launches() -> None:
    cost = Cost(launch=120, request=10)
    alike = cheapest(Split(0.001**2, 0.12**2), cost, 0.05, 0.03, prompts=200)
    unlike = cheapest(Split(0.05**2, 0.001**2), cost, 0.05, 0.03, prompts=200)
    assert alike is not None
    assert unlike is not None
    assert unlike.requests == 1
    assert alike.requests > 5
    assert rounds_of(unlike) > rounds_of(alike)


@given(st.floats(0, 0.04), st.floats(0.001, 0.2), st.floats(10, 300), st.floats(0.5, 30))
@settings(max_examples=6, deadline=None)
def test_the_cheapest_design_has_the_power_and_beats_a_fixed_one_of_the_same(
    between: float, within: float, launch: float, request: float
) -> None:
    noise, cost = Split(between**2, within**2), Cost(launch, request)
    fixed = played(0.06, noise.of_round(16), (7,), 0.03).found
    design = cheapest(noise, cost, 0.06, 0.03, prompts=64, wanted=fixed)
    assert design is not None
    assert design.power >= fixed
    assert design.seconds <= 7 * cost.of_round(16) + 1e-6


def test_a_noise_that_is_hardly_known_promises_less() -> None:
    known, measured = Split(0.03**2, 0.0), Split(0.03**2, 0.0, degrees=4)
    assert assured(0.06, measured, (8,), 1, 0.03) < assured(0.06, known, (8,), 1, 0.03) - 0.02
    well = Split(0.03**2, 0.0, degrees=10_000)
    assert assured(0.06, well, (8,), 1, 0.03) == pytest.approx(assured(0.06, known, (8,), 1, 0.03), abs=0.01)


def test_no_design_is_offered_where_none_reaches() -> None:
    assert cheapest(Split(1.0, 1.0), Cost(1, 1), 0.05, 0.03, prompts=8) is None
