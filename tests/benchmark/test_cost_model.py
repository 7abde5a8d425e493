"""The cost model on machines whose parts are known, and the setting that follows from it."""

from __future__ import annotations

import math
import random
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speculators.benchmark.cost_model import Cell, Measured, Model, StepTime, fit, held_out, length
from speculators.benchmark.setting import Setting, regrets, setting, validated

CELLS = [Cell(*one) for one in product((0, 1, 3, 5), (1, 4, 16, 64), (256.0, 2048.0))]
#: An 8B model on a large GPU, about: 8 ms of weights, then arithmetic from some 250 tokens on.
GPU = StepTime(8e-3, 6e-6, 3e-8, 0.9e-3, 2e-6, 2e-9, 3e-5, 256.0)
CPU = StepTime(0.03, 0.025, 1e-6, 0.008, 0.004, 2e-7, 0.0, math.inf)
RATES = (0.72, 0.5, 0.34, 0.22, 0.14)

seconds = st.floats(1e-5, 1e-2)
times = st.builds(
    StepTime,
    constant=st.floats(1e-3, 1e-1),
    token=seconds,
    cache=st.floats(0, 1e-6),
    draft=seconds,
    draft_token=seconds,
    draft_cache=st.floats(0, 1e-7),
    beyond=st.just(0.0),
    knee=st.just(math.inf),
)
rates = st.lists(st.floats(0.01, 0.99), min_size=1, max_size=8).map(
    lambda found: tuple(sorted(found, reverse=True))
)


def measured(time: StepTime, cells: list[Cell], noise: float = 0.0, seed: int = 0) -> list[Measured]:
    draw = random.Random(seed)
    return [
        Measured(cell, time.seconds(cell) * math.exp(draw.gauss(0, noise)), length(RATES, cell.tokens))
        for cell in cells
    ]


@given(times)
@settings(max_examples=25, deadline=None)
def test_a_machine_without_noise_is_found_again(time: StepTime) -> None:
    found = fit(measured(time, CELLS))
    for cell in (*CELLS, Cell(2, 8, 1000.0), Cell(4, 32, 4096.0)):
        assert found.seconds(cell) == pytest.approx(time.seconds(cell), rel=1e-3)


@pytest.mark.parametrize("time", [GPU, CPU])
def test_cells_that_were_not_measured_are_predicted_within_a_tenth(time: StepTime) -> None:
    found = held_out(measured(time, CELLS, noise=0.02), RATES)
    assert len(found) == len(CELLS)
    errors = sorted(abs(one.error) for one in found)
    assert errors[len(errors) // 2] < 0.03
    assert errors[int(0.9 * len(errors))] < 0.10


@given(times)
@settings(max_examples=25, deadline=None)
def test_no_part_is_negative_whatever_the_noise(time: StepTime) -> None:
    found = fit(measured(time, CELLS, noise=0.3, seed=3))
    assert all(part >= 0 for part in found)


@given(rates)
def test_the_length_grows_with_every_proposed_token_and_not_by_more_than_one(
    found: tuple[float, ...],
) -> None:
    lengths = [length(found, tokens) for tokens in range(len(found) + 1)]
    assert lengths[0] == 1
    assert all(0 <= later - earlier <= 1 for earlier, later in pairwise(lengths))


def test_positions_that_were_not_measured_are_not_guessed() -> None:
    with pytest.raises(ValueError, match="nothing of 3"):
        length((0.5, 0.2), 3)


@given(rates, times, st.integers(1, 64))
def test_in_closed_loop_no_speedup_exceeds_the_acceptance_length(
    found: tuple[float, ...], time: StepTime, requests: int
) -> None:
    model = Model(found, time)
    for tokens in range(len(found) + 1):
        assert model.speedup(Cell(tokens, requests, 512.0)) <= length(found, tokens) * (1 + 1e-12)


@given(rates, times)
@settings(max_examples=40, deadline=None)
def test_the_schedule_covers_every_batch_size_with_its_fastest_setting(
    found: tuple[float, ...], time: StepTime
) -> None:
    model = Model(found, time)
    chosen = setting(model, 48, 1024.0)
    assert chosen.schedule[0][0] == 1
    assert chosen.schedule[-1][1] == 48
    assert all(later[0] == earlier[1] + 1 for earlier, later in pairwise(chosen.schedule))
    for first, last, tokens in chosen.schedule:
        assert {model.best(requests, 1024.0) for requests in (first, last)} == {tokens}
    assert chosen.tokens == max(tokens for _, _, tokens in chosen.schedule)


def test_where_a_machine_has_no_free_arithmetic_speculation_is_turned_off() -> None:
    chosen = setting(Model((0.35, 0.12, 0.04), GPU), 512, 256.0)
    assert chosen.tokens >= 1
    tokens = [one for _, _, one in chosen.schedule]
    assert tokens == sorted(tokens, reverse=True)
    assert chosen.off_from is not None
    assert 64 < chosen.off_from <= 512
    assert chosen.config()["num_speculative_tokens_per_batch_size"][0][0] == 1


def test_a_draft_that_never_pays_has_no_setting() -> None:
    chosen = setting(Model((0.02, 0.001), CPU), 8, 128.0)
    assert (chosen.tokens, chosen.off_from, chosen.config()) == (0, 1, {})


def test_vllms_own_function_takes_the_schedule() -> None:
    dynamic = pytest.importorskip("vllm.v1.spec_decode.dynamic.utils")
    model = Model(RATES, GPU)
    chosen = setting(model, 512, 1024.0)
    assert validated(chosen) == list(chosen.schedule)
    lookup = dynamic.build_dynamic_sd_schedule_lookup(validated(chosen), 512, chosen.tokens)
    assert lookup[1:] == [model.best(requests, 1024.0) for requests in range(1, 513)]


def test_the_recommendation_is_near_the_best_measured_cell() -> None:
    cells = [Cell(*one) for one in product(range(6), (1, 4, 16, 64), (1024.0,))]
    found = measured(GPU, cells, noise=0.005)
    chosen = setting(Model(RATES, fit(found)), 64, 1024.0)
    losses = [one.loss for one in regrets(chosen, found)]
    assert len(losses) == 4
    assert all(loss is not None and loss < 0.03 for loss in losses)


def test_a_wrong_recommendation_shows_in_what_was_measured() -> None:
    """The rates promise more of three tokens than was accepted of them."""
    found = [
        one._replace(length=1.1) if one.cell.tokens == 3 else one for one in measured(GPU, CELLS, noise=0.01)
    ]
    wrong = list(regrets(Setting(3, ((1, 64, 3),)), found))
    assert len(wrong) == 8
    assert all(one.best != 3 and one.loss is not None and one.loss > 0.1 for one in wrong)
    assert max(abs(one.error) for one in held_out(found, RATES) if one.cell.tokens == 3) > 0.5


def test_a_recommended_setting_that_was_not_measured_is_held_against_nothing() -> None:
    found = list(regrets(Setting(2, ((1, 4, 2), (5, 64, 1))), measured(GPU, CELLS)))
    assert {(one.requests, one.recommended, one.loss is None) for one in found} == {
        (1, 2, True),
        (4, 2, True),
        (16, 1, False),
        (64, 1, False),
    }
