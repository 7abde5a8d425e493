"""The cost model on machines whose parts are known, and the setting that follows from it."""

from __future__ import annotations

import math
import random
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speculators.benchmark.cost_model import (
    Acceptance,
    Cell,
    Measured,
    Model,
    StepTime,
    acceptance,
    fit,
    held_out,
    length,
)
from speculators.benchmark.setting import (
    SCHEDULE,
    WORTH,
    Corrections,
    Setting,
    corrections,
    regrets,
    repeated,
    setting,
    speeds,
    validated,
)
from speculators.serving.metrics import SpecCounters

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


def test_a_cell_whose_step_the_others_give_no_time_is_not_predicted() -> None:
    """Where plain serving is left out, the rest may be explained by the draft's time alone."""
    cells = [Cell(tokens, 1, 100.0) for tokens in range(6)]
    found = [
        Measured(cell, 0.01 * cell.tokens if cell.tokens else 0.01, length(RATES, cell.tokens), None)
        for cell in cells
    ]
    predicted = {one.cell.tokens for one in held_out(found, Acceptance(RATES))}
    assert 0 not in predicted
    assert predicted


@given(times)
@settings(max_examples=25, deadline=None)
def test_a_machine_without_noise_is_found_again(time: StepTime) -> None:
    found = fit(measured(time, CELLS))
    for cell in (*CELLS, Cell(2, 8, 1000.0), Cell(4, 32, 4096.0)):
        assert found.seconds(cell) == pytest.approx(time.seconds(cell), rel=1e-3)


@pytest.mark.parametrize("time", [GPU, CPU])
def test_cells_that_were_not_measured_are_predicted_within_a_tenth(time: StepTime) -> None:
    found = held_out(measured(time, CELLS, noise=0.02), Acceptance(RATES))
    assert len(found) == len(CELLS)
    errors = sorted(abs(one.error) for one in found)
    assert errors[len(errors) // 2] < 0.03
    assert errors[int(0.9 * len(errors))] < 0.10


#: What prompts of two lengths accept: the mean of both fits neither.
BY_CONTEXT = {256.0: (0.85, 0.7, 0.56, 0.45, 0.37), 2048.0: (0.55, 0.28, 0.13, 0.06, 0.03)}
#: Four loads of one context, and a width beyond which only the widest loads show what a token costs.
KNEE = StepTime(8e-3, 2e-5, 3e-8, 0.9e-3, 2e-6, 2e-9, 4e-4, 12.0)
FOUR_LOADS = [Cell(*one) for one in product((0, 1, 2, 3), (1, 2, 4, 8), (512.0,))]


def counted(time: StepTime, cells: list[Cell], steps: int, seed: int = 0) -> list[Measured]:
    """Cells as a run leaves them: times 2 % off, steps counted by position, prompts by length of context."""
    draw, found = random.Random(seed), []
    for cell in cells:
        rates = BY_CONTEXT.get(cell.context, RATES)[: cell.tokens]
        accepted = tuple(round(steps * rate) for rate in rates)
        spec = SpecCounters(steps, steps * cell.tokens, sum(accepted), accepted)
        seconds = time.seconds(cell) * math.exp(draw.gauss(0, 0.02))
        found.append(Measured(cell, seconds, 1 + sum(accepted) / steps, spec if cell.tokens else None))
    return found


def median_error(found: list[float]) -> float:
    return sorted(abs(one) for one in found)[len(found) // 2]


def test_prompts_that_accept_otherwise_are_predicted_by_their_own_acceptance() -> None:
    found = counted(GPU, CELLS, steps=300)
    pooled = Acceptance(acceptance(found).pooled)
    by_one_for_all = median_error([one.error for one in held_out(found, pooled)])
    by_load = median_error([one.error for one in held_out(found)])
    assert by_one_for_all > 0.10
    assert by_load < 0.04


def test_no_load_is_held_out_whole_so_the_widest_is_not_extrapolated() -> None:
    """Dealt in turn over cells by K, four loads make each part one load."""
    found = counted(KNEE, FOUR_LOADS, steps=300)
    in_turn = []
    for fold in range(4):
        rest = [one for place, one in enumerate(found) if place % 4 != fold]
        model = Model(acceptance(rest), fit(rest))
        in_turn += [model.speed(one.cell) / one.speed - 1 for one in found[fold::4]]
    dealt = [one.error for one in held_out(found)]
    assert len(dealt) == len(found)
    assert max(map(abs, in_turn)) > 0.10
    assert max(map(abs, dealt)) < 0.10
    assert median_error(dealt) < median_error(in_turn)


def test_nothing_of_a_held_out_cell_is_known_to_its_prediction() -> None:
    """The deepest K of one load accepts what no other does, and that is not foretold."""
    found = counted(GPU, FOUR_LOADS, steps=300)
    lucky = SpecCounters(300, 900, 900, (300, 300, 300))
    changed = [one._replace(length=4.0, counted=lucky) if one.cell[:2] == (3, 8) else one for one in found]
    (error,) = (one.error for one in held_out(changed) if one.cell[:2] == (3, 8))
    assert error < -0.25


def test_more_tokens_than_all_others_propose_are_not_predicted() -> None:
    found = counted(GPU, [one for one in FOUR_LOADS if one.requests == 1], steps=300)
    assert {one.cell.tokens for one in held_out(found)} == {0, 1, 2}


def test_a_load_of_few_steps_is_predicted_by_what_all_accept() -> None:
    few, many = (counted(GPU, [one for one in CELLS if one.tokens], steps) for steps in (99, 100))
    assert acceptance(few).by_load == {}
    own = acceptance(many)
    assert own.at((4, 256.0)) == pytest.approx(BY_CONTEXT[256.0], abs=0.01)
    assert own.at((7, 2048.0)) == own.at((1, 2048.0))
    assert own.at((7, 999.0)) == own.pooled


def test_positions_that_a_load_did_not_count_fall_off_as_everywhere() -> None:
    cells = [Cell(5, 1, 2048.0), Cell(1, 1, 256.0)]
    rates = acceptance(counted(GPU, cells, steps=1000)).at((1, 256.0))
    assert rates == pytest.approx([0.85 * one / 0.55 for one in BY_CONTEXT[2048.0]], abs=0.01)


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
    model = Model(Acceptance(found), time)
    for tokens in range(len(found) + 1):
        assert model.speedup(Cell(tokens, requests, 512.0)) <= length(found, tokens) * (1 + 1e-12)


@given(rates, times)
@settings(max_examples=40, deadline=None)
def test_the_schedule_covers_every_batch_size_with_its_fastest_setting(
    found: tuple[float, ...], time: StepTime
) -> None:
    model = Model(Acceptance(found), time)
    chosen = setting(model, 48, 1024.0)
    assert chosen.schedule[0][0] == 1
    assert chosen.schedule[-1][1] == 48
    assert all(later[0] == earlier[1] + 1 for earlier, later in pairwise(chosen.schedule))
    for row, requests in zip(speeds(model, 48, 1024.0), range(1, 49), strict=True):
        one_for_all = len(chosen.schedule) == 1
        assert row[chosen.at(requests)] >= max(row) * ((1 - WORTH) if one_for_all else 1)
    assert chosen.tokens == max(tokens for _, _, tokens in chosen.schedule)


def test_where_a_machine_has_no_free_arithmetic_speculation_is_turned_off() -> None:
    chosen = setting(Model(Acceptance((0.35, 0.12, 0.04)), GPU), 512, 256.0)
    assert chosen.tokens >= 1
    tokens = [one for _, _, one in chosen.schedule]
    assert tokens == sorted(tokens, reverse=True)
    assert chosen.off_from is not None
    assert 64 < chosen.off_from <= 512
    assert chosen.config()[SCHEDULE][0][0] == 1
    assert chosen.alone is not None
    assert chosen.alone.loss > WORTH


def test_a_draft_that_never_pays_has_no_setting() -> None:
    chosen = setting(Model(Acceptance((0.02, 0.001)), CPU), 8, 128.0)
    assert (chosen.tokens, chosen.off_from, chosen.config()) == (0, 1, {})


def test_vllms_own_function_takes_the_schedule() -> None:
    dynamic = pytest.importorskip("vllm.v1.spec_decode.dynamic.utils")
    model = Model(Acceptance(RATES), GPU)
    chosen = setting(model, 512, 1024.0)
    assert len(chosen.schedule) > 1
    assert validated(chosen) == list(chosen.schedule)
    lookup = dynamic.build_dynamic_sd_schedule_lookup(validated(chosen), 512, chosen.tokens)
    assert lookup[1:] == [row.index(max(row)) for row in speeds(model, 512, 1024.0)]


def test_the_recommendation_is_near_the_best_measured_cell() -> None:
    cells = [Cell(*one) for one in product(range(6), (1, 4, 16, 64), (1024.0,))]
    found = measured(GPU, cells, noise=0.005)
    chosen = setting(Model(Acceptance(RATES), fit(found)), 64, 1024.0)
    losses = [one.loss for one in regrets(chosen, found)]
    assert len(losses) == 4
    assert all(loss is not None and loss < 0.03 for loss in losses)


def twice(model: Model, found: list[Measured]) -> Corrections:
    """What two rounds that agree say."""
    return corrections(repeated(model, [found, found]))


def test_what_rounds_repeat_chooses_and_not_the_model() -> None:
    """At 4 requests this machine serves any draft at a third of what the model expects."""
    cells = [Cell(*one) for one in product(range(6), (1, 4, 64), (1024.0,))]
    model = Model(Acceptance(RATES), GPU)
    found = [
        one._replace(seconds=one.seconds * (3 if one.cell.tokens and one.cell.requests == 4 else 1))
        for one in measured(GPU, cells)
    ]
    chosen = setting(model, 64, 1024.0, twice(model, found))
    assert setting(model, 64, 1024.0).at(4) > 0
    assert chosen.at(4) == 0
    assert chosen.at(1) > 0
    assert all(one.loss == 0 for one in regrets(chosen, found))
    table = speeds(model, 64, 1024.0, twice(model, found))
    for one in found:
        assert table[one.cell.requests - 1][one.cell.tokens] == pytest.approx(one.speed)
    alone = setting(model, 64, 1024.0, corrections(repeated(model, [found])))
    assert alone.at(4) == setting(model, 64, 1024.0).at(4), "one round may be chance"


ROUND = st.lists(st.floats(0.5, 2.0), min_size=4, max_size=4)  # seconds of a step with 0 to 3 tokens
FLAT = Model(Acceptance(RATES[:3]), CPU)


def round_of(seconds: list[float]) -> list[Measured]:
    return [
        Measured(Cell(tokens, 4, 1024.0), one, length(RATES, tokens)) for tokens, one in enumerate(seconds)
    ]


@given(st.lists(ROUND, min_size=1, max_size=5), st.floats(0.1, 10.0), st.data())
def test_a_slow_round_is_in_no_difference_between_settings(
    rounds: list[list[float]], times: float, data: st.DataObject
) -> None:
    found = repeated(FLAT, [round_of(one) for one in rounds])[4]
    assert 0 <= found.share <= 1
    assert sum(found.beyond.values()) == pytest.approx(0, abs=1e-9)
    place = data.draw(st.integers(0, len(rounds) - 1))
    slowed = [[times * one for one in row] if at == place else row for at, row in enumerate(rounds)]
    other = repeated(FLAT, [round_of(one) for one in slowed])[4]
    assert other.beyond == pytest.approx(found.beyond, abs=1e-9)
    assert other.share == pytest.approx(found.share, abs=1e-6)
    assert other.common == pytest.approx(found.common - math.log(times) / len(rounds))


@given(ROUND.filter(lambda one: max(one) > 1.01 * min(one)), st.integers(2, 5))
def test_rounds_that_agree_are_believed_wholly(seconds: list[float], rounds: int) -> None:
    (found,) = repeated(FLAT, [round_of(seconds)] * rounds).values()
    assert found.share == pytest.approx(1, abs=1e-6)


def test_a_setting_that_one_round_lacks_has_no_correction() -> None:
    whole = round_of([1.0, 1.2, 1.4, 1.6])
    assert list(repeated(FLAT, [whole, whole[:2]])[4].beyond) == [0, 1]


@pytest.mark.parametrize(("noise", "better"), [(0.08, True), (0.002, False)])
def test_among_noisy_launches_less_is_lost_than_by_the_luckiest(noise: float, better: bool) -> None:
    """Speeds of 200 machines that are as the model says but for 2 %, three rounds each."""
    cells = [Cell(tokens, 1, 1024.0) for tokens in range(4)]
    lost: dict[str, list[float]] = {"shrunk": [], "luckiest": [], "model": []}
    for seed in range(200):
        machine = measured(CPU, cells, noise=0.02, seed=seed)
        draw = random.Random(1000 + seed)
        rounds = [
            [one._replace(seconds=one.seconds * math.exp(draw.gauss(0, noise))) for one in machine]
            for _ in range(3)
        ]
        believed = {at: one._replace(share=1.0) for at, one in repeated(FLAT, rounds).items()}
        known = {
            "shrunk": corrections(repeated(FLAT, rounds)),
            "luckiest": corrections(believed),
            "model": corrections({}),
        }
        for name, one in known.items():
            (row,) = speeds(FLAT, 1, 1024.0, one)
            chosen = max(range(4), key=row.__getitem__)
            lost[name].append(1 - machine[chosen].speed / max(one.speed for one in machine))
    mean = {name: sum(found) / len(found) for name, found in lost.items()}
    if better:
        assert mean["shrunk"] < 0.8 * mean["luckiest"]
    else:
        assert mean["shrunk"] < 0.5 * mean["model"]
        assert mean["shrunk"] < 0.002


def test_one_number_for_all_loads_is_no_schedule() -> None:
    """vLLM serves slower with a list, also where nothing varies in it."""
    assert Setting(3, ((1, 8, 3),)).config() == {"num_speculative_tokens": 3}
    assert SCHEDULE in Setting(3, ((1, 8, 3), (9, 64, 0))).config()


def test_a_schedule_that_gains_next_to_nothing_is_left_out() -> None:
    cells = [Cell(*one) for one in product(range(3), (1, 4), (1024.0,))]
    found = [
        one._replace(seconds=1.0, length=1 + gain)
        for one, gain in zip(sorted(measured(GPU, cells)), (0, 0, 0.5, 0.51, 0.51, 0.5), strict=True)
    ]
    model = Model(Acceptance(RATES[:2]), GPU)
    chosen = setting(model, 4, 1024.0, twice(model, found))
    assert chosen.schedule == ((1, 4, chosen.tokens),)
    assert chosen.alone is not None
    assert 0 < chosen.alone.loss <= WORTH
    assert max(one.loss or 0 for one in regrets(chosen, found)) <= WORTH


def test_a_wrong_recommendation_shows_in_what_was_measured() -> None:
    """The rates promise more of three tokens than was accepted of them."""
    found = [
        one._replace(length=1.1) if one.cell.tokens == 3 else one for one in measured(GPU, CELLS, noise=0.01)
    ]
    wrong = list(regrets(Setting(3, ((1, 64, 3),)), found))
    assert len(wrong) == 8
    assert all(one.best != 3 and one.loss is not None and one.loss > 0.1 for one in wrong)
    assert max(abs(one.error) for one in held_out(found, Acceptance(RATES)) if one.cell.tokens == 3) > 0.5


def test_a_recommended_setting_that_was_not_measured_is_held_against_nothing() -> None:
    found = list(regrets(Setting(2, ((1, 4, 2), (5, 64, 1))), measured(GPU, CELLS)))
    assert {(one.requests, one.recommended, one.loss is None) for one in found} == {
        (1, 2, True),
        (4, 2, True),
        (16, 1, False),
        (64, 1, False),
    }
