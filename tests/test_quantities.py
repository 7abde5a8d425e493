from __future__ import annotations

import pytest

from speculators.quantities import duration, size


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
