from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculators.quantities import age, duration, parse_duration, parse_size, size


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (269_060_552, "269.1 MB"), (3e15, "3000.0 TB")],
)
def test_sizes(value: int, expected: str) -> None:
    assert size(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(4.24, "4.2 s"), (59.4, "59 s"), (75, "1 min 15 s"), (119.94, "2 min 00 s"), (7320, "2 h 02 min")],
)
def test_durations(value: float, expected: str) -> None:
    assert duration(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(-1, "0.0 s ago"), (7320, "2 h 02 min ago"), (172_799, "47 h 59 min ago"), (2.6e6, "30 d ago")],
)
def test_ages(value: float, expected: str) -> None:
    assert age(value) == expected


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", 5400), ("12h", 43200), ("30d", 2_592_000), ("1.5w", 907_200)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "30 days", "1e3d", "30D", "\u0663d"])
def test_what_is_no_duration(text: str) -> None:
    assert parse_duration(text) is None


@pytest.mark.parametrize(
    ("text", "count"), [("0", 0), ("500M", 500_000_000), ("1.5 GB", 1_500_000_000), ("2T", 2 * 10**12)]
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "G", "-1G", "1GiB", "1e3", "ten", "1 G B"])
def test_what_is_no_size(text: str) -> None:
    assert parse_size(text) is None


@given(st.integers(0, 10**15))
def test_a_size_as_it_is_written_is_read_again(count: int) -> None:
    again = parse_size(size(count))
    assert again is not None
    assert abs(again - count) <= 0.05 * 1000 ** max(0, (len(str(count)) - 1) // 3)
