from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from speculators.datagen.loops import LOOPING_FRACTION, is_looping, repeated_fraction


def test_text_without_repeats_does_not_loop() -> None:
    assert repeated_fraction(range(100)) == 0.0
    assert not is_looping(range(100))


def test_a_repeated_sentence_loops() -> None:
    assert is_looping([5, 9, 2, 7, 1] * 12)


def test_the_fraction_counts_grams_seen_before() -> None:
    # Ten tokens twice: 13 grams of length 8; the last three repeat the first three.
    assert repeated_fraction([*range(10), *range(10)]) == 3 / 13


def test_a_row_at_the_limit_is_not_looping() -> None:
    # 17 distinct tokens, then the first ten again: 3 repeats of 20 grams; then 6 of 20, which is the limit.
    assert repeated_fraction([*range(17), *range(10)]) == 3 / 20
    at_limit = [*range(14), *range(13)]
    assert repeated_fraction(at_limit) == LOOPING_FRACTION
    assert not is_looping(at_limit)


def test_a_row_shorter_than_a_gram_never_loops() -> None:
    assert repeated_fraction([1] * 7) == 0.0


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, 8))
def test_the_fraction_is_below_one_and_repeating_a_row_never_lowers_it(row: list[int], n: int) -> None:
    once, twice = repeated_fraction(row, n), repeated_fraction(row + row, n)
    assert 0.0 <= once < 1.0
    assert twice >= once
