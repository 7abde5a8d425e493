"""Forecasts from the first half of a learning curve: right within their error, on curves of other shapes."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculators.training.extrapolation import Point, forecast

SHARES = [0.125, 0.25, 0.375, 0.5]
CURVES = {
    "saturating": lambda x: 2.2 - 0.8 * math.exp(-4 * x),
    "power": lambda x: 2.4 - 0.4 * x**-0.35,
    "logarithm": lambda x: 2.0 + 0.15 * math.log(x),
    "root": lambda x: 1.2 + 0.9 * math.sqrt(x),
    "flat": lambda x: 1.6,
}


@pytest.mark.parametrize("name", sorted(CURVES))
def test_what_came_lies_within_two_errors_nearly_always(name: str) -> None:
    curve, draw = CURVES[name], random.Random(name)
    held = 0
    for _ in range(400):
        points = [Point(share, curve(share) + draw.gauss(0, 0.01), 0.01) for share in SHARES]
        found = forecast(points, 4.0)
        assert found is not None
        held += found.holds(curve(1.0))
    assert held >= 0.9 * 400


def test_the_error_is_not_wide_enough_to_say_nothing() -> None:
    points = [Point(share, CURVES["power"](share), 0.01) for share in SHARES]
    found = forecast(points, 4.0)
    assert found is not None
    assert found.error < 0.15
    assert not found.holds(found.length + 1)


POINTS = st.lists(
    st.tuples(st.integers(1, 20), st.floats(1.0, 3.0), st.floats(0.005, 0.1)),
    min_size=2, max_size=8, unique_by=lambda point: point[0],
).map(lambda rows: [Point(share / 40, length, error) for share, length, error in rows])  # fmt: skip


@given(POINTS)
def test_more_noise_is_more_error_and_the_order_does_not_matter(points) -> None:
    found, back = forecast(points, 4.0), forecast(points[::-1], 4.0)
    noisier = forecast([point._replace(error=3 * point.error) for point in points], 4.0)
    assert found is not None
    assert noisier is not None
    assert back is not None
    assert noisier.error > found.error
    assert back.error == pytest.approx(found.error)
    assert 1.0 <= found.length <= 4.0


@given(POINTS, st.floats(1.0, 3.0))
def test_a_curve_that_stands_still_is_expected_to_stay(points, level) -> None:
    found = forecast([point._replace(length=level) for point in points], 4.0)
    assert found is not None
    assert found.length == pytest.approx(level)


def test_nothing_is_forecast_from_one_point_or_from_points_of_unknown_noise() -> None:
    assert forecast([Point(0.5, 1.5, 0.01)], 4.0) is None
    assert forecast([Point(0.25, 1.4, math.inf), Point(0.5, 1.5, math.inf)], 4.0) is None


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.0, 0.5), (0.5, 1.5)])
def test_shares_that_are_none_are_refused(shares) -> None:
    with pytest.raises(ValueError, match="distinct"):
        forecast([Point(share, 1.5, 0.01) for share in shares], 4.0)
