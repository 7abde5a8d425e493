from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculators.training.schedule import FLOOR, learning_rate_factor


@given(st.integers(1, 400), st.floats(0, 1))
def test_the_rate_rises_to_its_peak_then_falls_and_never_vanishes(total, warmup) -> None:
    factors = [learning_rate_factor(step, total, warmup) for step in range(total)]
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert all(0 < factor <= 1 for factor in factors)


def test_warm_up_ends_at_the_peak_and_the_last_step_is_at_the_floor() -> None:
    assert learning_rate_factor(0, 100, 0.1) == pytest.approx(0.1)
    assert learning_rate_factor(9, 100, 0.1) == 1.0
    assert learning_rate_factor(99, 100, 0.1) == pytest.approx(FLOOR)
