from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from speculators.datagen.splits import validation_topics

TOPICS = st.lists(st.sampled_from("abcdefghij"), max_size=60)


def test_the_same_seed_chooses_the_same_topics_whatever_the_order_of_rows() -> None:
    rows = ["tides", "bread", "chess", "bees", "tides", "chess"]
    assert validation_topics(rows, 0.3, seed=1) == validation_topics(rows[::-1], 0.3, seed=1)


def test_seeds_choose_different_topics() -> None:
    rows = [f"topic-{number}" for number in range(50)]
    assert validation_topics(rows, 0.1, seed=0) != validation_topics(rows, 0.1, seed=1)


def test_a_tenth_of_many_equal_topics_is_a_tenth_of_the_rows() -> None:
    rows = [f"topic-{number % 50}" for number in range(500)]
    held_out = validation_topics(rows, 0.1, seed=0)
    assert sum(row in held_out for row in rows) == 50


def test_a_single_topic_trains() -> None:
    assert validation_topics(["tides"] * 9, 0.5, seed=0) == frozenset()


@given(TOPICS, st.floats(0, 0.9), st.integers(0, 5))
def test_enough_rows_validate_and_one_topic_always_trains(
    rows: list[str], fraction: float, seed: int
) -> None:
    held_out = validation_topics(rows, fraction, seed)
    assert held_out <= set(rows)
    if rows:
        assert held_out != set(rows)
    if len(set(rows)) - len(held_out) > 1:
        assert sum(row in held_out for row in rows) >= fraction * len(rows)
    if fraction == 0:
        assert not held_out
