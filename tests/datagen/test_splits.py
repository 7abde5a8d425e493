from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from speculators.datagen.splits import MOST, validation_topics

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


def test_one_huge_topic_trains_although_the_order_would_hold_it_out() -> None:
    rows = ["tides"] * 60 + [f"topic-{number % 8}" for number in range(40)]
    for seed in range(10):
        held_out = validation_topics(rows, 0.1, seed)
        assert "tides" not in held_out
        assert sum(row in held_out for row in rows) == 10


def test_where_every_topic_is_too_large_the_smallest_validates() -> None:
    assert validation_topics(["tides"] * 6 + ["bread"] * 4 + ["chess"] * 5, 0.1, seed=0) == {"bread"}


@given(TOPICS, st.floats(0, 0.9), st.integers(0, 5))
def test_the_held_out_share_is_near_the_wanted_one_or_cannot_be(
    rows: list[str], fraction: float, seed: int
) -> None:
    sizes = Counter(rows)
    wanted = fraction * len(rows)
    held_out = validation_topics(rows, fraction, seed)
    share = sum(sizes[topic] for topic in held_out)
    assert held_out <= set(rows)
    assert not rows or held_out != set(rows)
    assert bool(held_out) == (fraction > 0 and len(sizes) > 1)
    if share > MOST * wanted:
        assert [sizes[topic] for topic in held_out] == [min(sizes.values())]
    left = [size for topic, size in sizes.items() if topic not in held_out]
    if share < wanted and len(left) > 1:
        assert all(share + size > MOST * wanted for size in left)
