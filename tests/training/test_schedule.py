from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculators.recipe.schema import load_schema, schema_at
from speculators.training.schedule import FLOOR, SHAPES, learning_rate_factor


@given(st.integers(1, 400), st.floats(0, 1), st.sampled_from(sorted(SHAPES)))
def test_the_rate_rises_to_its_peak_then_falls_and_never_vanishes(total, warmup, schedule) -> None:
    factors = [learning_rate_factor(step, total, warmup, schedule) for step in range(total)]
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert all(0 < factor <= 1 for factor in factors)


@pytest.mark.parametrize(("schedule", "last"), [("cosine", FLOOR), ("linear", FLOOR), ("constant", 1.0)])
def test_warm_up_ends_at_the_peak_and_the_last_step_is_where_the_schedule_ends(schedule, last) -> None:
    assert learning_rate_factor(0, 100, 0.1, schedule) == pytest.approx(0.1)
    assert learning_rate_factor(9, 100, 0.1, schedule) == 1.0
    assert learning_rate_factor(99, 100, 0.1, schedule) == pytest.approx(last)


def test_half_way_down_a_line_is_half_way_and_a_cosine_is_there_too() -> None:
    middle = (1 + FLOOR) / 2
    assert learning_rate_factor(54, 100, 0.1, "linear") == pytest.approx(middle)
    assert learning_rate_factor(54, 100, 0.1, "cosine") == pytest.approx(middle)
    assert learning_rate_factor(31, 100, 0.1, "cosine") > learning_rate_factor(31, 100, 0.1, "linear")


def test_the_recipe_offers_every_schedule_and_no_other() -> None:
    node = schema_at(load_schema(), ("training", "schedule"))
    assert node is not None
    assert set(node["enum"]) == set(SHAPES)
