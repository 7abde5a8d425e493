from __future__ import annotations

import math
import random

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from speculators.benchmark.figures import (
    Rounds,
    Together,
    chance_of_more,
    on_same_prompts,
    outputs,
    over_rounds,
    pooled_change,
)
from speculators.benchmark.gate import OK, REGRESSION, UNDECIDED, spent
from speculators.benchmark.measurement import Answers, Drafting, pooled_length

counts = st.tuples(st.integers(1, 60), st.integers(0, 180))
sides = st.lists(st.tuples(counts, counts), min_size=2, max_size=20)


def answers(counted: list[tuple[int, int]], **changes: list[object]) -> list[Answers]:
    found = [Answers(f"p{i}", Drafting(*one), (f"t{i}",), True, True) for i, one in enumerate(counted)]
    return [
        one._replace(**{name: values[i] for name, values in changes.items()}) for i, one in enumerate(found)
    ]


@given(st.lists(counts, min_size=2, max_size=20))
def test_the_same_counts_have_not_changed_at_all(before: list[tuple[int, int]]) -> None:
    assert pooled_change(before, before) == (0.0, 0.0, len(before) - 1)


@given(sides)
def test_the_change_is_that_of_the_pooled_lengths_and_reversible(
    both: list[tuple[tuple[int, int], tuple[int, int]]],
) -> None:
    old, new = ([one[which] for one in both] for which in (0, 1))
    change, back = pooled_change(old, new), pooled_change(new, old)
    assert math.exp(change.mean) == pytest.approx(pooled_length(new) / pooled_length(old))
    assert change.mean == pytest.approx(-back.mean, abs=1e-12)
    assert change.error == pytest.approx(back.error)


def test_the_error_is_that_of_leaving_out_one_prompt_at_a_time() -> None:
    """The jackknife (Tukey, 1958) is the other way to the error of a ratio; on many prompts they agree."""
    draw = random.Random(3)
    old = [(draw.randint(15, 40), draw.randint(10, 40)) for _ in range(60)]
    new = [(drafts + draw.randint(0, 4), accepted) for drafts, accepted in old]
    without = [pooled_change(old[:i] + old[i + 1 :], new[:i] + new[i + 1 :]).mean for i in range(len(old))]
    mean = sum(without) / len(without)
    jackknife = math.sqrt((len(old) - 1) / len(old) * sum((one - mean) ** 2 for one in without))
    assert pooled_change(old, new).error == pytest.approx(jackknife, rel=0.03)


def test_half_a_percent_of_acceptance_is_seen_on_the_same_prompts() -> None:
    before = [(30, 15 + i) for i in range(16)]
    fewer = answers([(drafts, accepted - 1) for drafts, accepted in before])
    found = on_same_prompts(answers(before), fewer, 0.005, 0.05)
    assert found is not None
    assert (found.verdict, found.rounds) == (REGRESSION, False)
    assert found.change == pytest.approx(-0.0192, abs=1e-3)
    same = on_same_prompts(answers(before), answers(before), 0.005, 0.05)
    assert same is not None
    assert (same.verdict, same.change) == (OK, 0.0)


def test_one_changed_prompt_of_sixteen_is_no_certain_loss() -> None:
    before = [(30, 15)] * 16
    found = on_same_prompts(answers(before), answers([*before[:-1], (36, 9)]), 0.005, 0.05)
    assert found is not None
    assert found.verdict == UNDECIDED


def test_prompts_that_were_not_counted_in_both_are_left_out() -> None:
    before = answers([(30, 15), (30, 16), (30, 17)], drafting=[Drafting(30, 15), None, Drafting(30, 17)])
    found = on_same_prompts(before, answers([(30, 15), (1, 99), (30, 17)]), 0.005, 0.05)
    assert found is not None
    assert found.new == pytest.approx(1 + 32 / 60)
    assert on_same_prompts(before[:2], before[:2], 0.005, 0.05) is None


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))))
def test_the_chance_is_that_of_fishers_test(case: tuple[int, int, int]) -> None:
    old, new, count = case
    table = [[new, count - new], [old, count - old]]
    expected = scipy.stats.fisher_exact(table, alternative="greater").pvalue
    assert chance_of_more(old, new, count) == pytest.approx(expected)


def test_changed_answers_are_a_regression_beyond_what_plain_serving_changes_by_itself() -> None:
    before = answers([(30, 15)] * 16)
    other = answers([(30, 15)] * 16, texts=[("x",)] * 12 + [(f"t{i}",) for i in range(12, 16)])
    verdicts = {one.name: one.verdict for one in outputs(before, other, 0.05, gated=True)}
    assert verdicts == {"answers as before": REGRESSION, "answers as plain serving's": OK}
    restless = answers([(30, 15)] * 16, stable=[False] * 12 + [True] * 4)
    assert {one.verdict for one in outputs(restless, other, 0.05, gated=True)} == {OK}


def test_a_draft_that_changes_what_plain_serving_says_is_a_regression() -> None:
    before = answers([(30, 15)] * 16)
    unequal = answers([(30, 15)] * 16, equal=[False] * 8 + [True] * 8)
    found = {one.name: one for one in outputs(before, unequal, 0.05, gated=True)}
    assert found["answers as plain serving's"].verdict == REGRESSION
    assert found["answers as plain serving's"].new == 0.5


@pytest.mark.parametrize(
    ("count", "changed", "verdict"),
    [
        (8, 0, OK),
        (8, 1, OK),  # as probable as not, where one prompt in both falls out
        (8, 2, UNDECIDED),
        (8, 5, UNDECIDED),  # 1.28 %: more than a look of four may spend
        (8, 6, REGRESSION),
        (16, 5, UNDECIDED),
        (16, 6, REGRESSION),
        (64, 2, UNDECIDED),
        (2, 1, OK),
        (1, 1, UNDECIDED),  # nothing is left of the answers: too few to be certain, and not ok
    ],
)
def test_answers_that_changed_are_not_called_ok_before_it_is_certain(
    count: int, changed: int, verdict: str
) -> None:
    before = answers([(30, 15)] * count)
    texts = [("x",)] * changed + [(f"t{i}",) for i in range(changed, count)]
    other = answers([(30, 15)] * count, texts=texts)
    unequal = answers([(30, 15)] * count, equal=[False] * changed + [True] * (count - changed))
    found = {one.name: one.verdict for one in outputs(before, other, spent(4), gated=True)}
    assert found == {"answers as before": verdict, "answers as plain serving's": OK}
    found = {one.name: one.verdict for one in outputs(before, unequal, spent(4), gated=True)}
    assert found == {"answers as before": OK, "answers as plain serving's": verdict}


def test_a_draft_is_not_blamed_for_what_plain_serving_does_not_repeat() -> None:
    before = answers([(30, 15)] * 16)
    fall_out = [False] * 8 + [True] * 8
    after = answers([(30, 15)] * 16, equal=fall_out, stable=fall_out)
    found = {one.name: one for one in outputs(before, after, 0.05, gated=True)}
    assert found["answers as plain serving's"].verdict == OK
    assert found["answers as plain serving's"].change == -0.5


@given(st.integers(1, 40), st.integers(0, 40))
def test_one_more_comes_about_by_chance_in_half_of_all_cases(count: int, old: int) -> None:
    if old < count:
        assert chance_of_more(old, old + 1, count) == pytest.approx(0.5)


def test_rounds_that_agree_by_chance_are_not_surer_than_the_baselines() -> None:
    scattered = [math.log(1.5) + shift for shift in (-0.04, -0.02, 0.0, 0.02, 0.04)]
    agreeing = [math.log(1.5)] * 5
    found = over_rounds("speedup", None, Rounds(scattered, agreeing), 0.03, 0.0125)
    assert found.verdict == UNDECIDED
    assert found.change == pytest.approx(0, abs=1e-9)


same_rounds = st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=2, max_size=12)


@given(same_rounds)
def test_of_common_rounds_the_change_is_scipys_of_related_samples(both: list[tuple[float, float]]) -> None:
    old, new = ([one[which] for one in both] for which in (0, 1))
    change = Rounds(old, new, Together()).change()
    found = scipy.stats.ttest_1samp([b - a for a, b in both], 0)
    assert change.mean == pytest.approx(math.fsum(b - a for a, b in both) / len(both), abs=1e-12)
    if change.error > 1e-6:
        assert change.mean / change.error == pytest.approx(found.statistic, rel=1e-6, abs=1e-9)


def test_what_a_round_has_in_common_is_in_both() -> None:
    draw = random.Random(5)
    luck = [draw.gauss(0, 0.2) for _ in range(5)]
    new = [one + math.log(0.9) + 0.001 * place for place, one in enumerate(luck)]
    together = over_rounds("speedup", None, Rounds(luck, new, Together()), 0.03, 0.0125)
    apart = over_rounds("speedup", None, Rounds(luck, new), 0.03, 0.0125)
    assert (together.verdict, apart.verdict) == (REGRESSION, UNDECIDED)


def test_rounds_that_agree_by_chance_are_not_believed_beyond_the_known_scatter() -> None:
    rounds = Rounds([0.0, 0.0, 0.0], [0.0, 0.0, 0.0001], Together(0.05))
    assert rounds.change().error == pytest.approx(0.05 / math.sqrt(3))
