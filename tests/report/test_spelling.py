from __future__ import annotations

from speculators.report import spelling
from speculators.report.markdown import cell


def test_what_was_not_measured_is_said_and_never_spelled_as_a_number() -> None:
    for spell in (
        spelling.number,
        spelling.percent,
        spelling.difference,
        spelling.interval,
        spelling.rates,
        spelling.seconds,
        spelling.bytes_,
    ):
        assert spell(None) == "not measured"


def test_figures() -> None:
    assert spelling.number(1234.567) == "1,234.57"
    assert spelling.percent(0.9814) == "98.1%"
    assert spelling.difference(-0.021) == "-2.1%"
    assert spelling.difference(-1e-16) == "+0.0%", "rounding's own sign is nobody's finding"
    assert spelling.rates([0.5, 0.25]) == "0.500 / 0.250"
    assert spelling.interval({"mean": 1.2, "low": 1.1, "high": 1.3}) == "1.20× [1.10, 1.30]"
    assert spelling.interval({"mean": 1.2, "low": None, "high": None}) == "1.20× (one round: no interval)"


def test_counts_are_spelled_in_words() -> None:
    assert spelling.counts({"rows": 3, "length_limited": 1, "dropped": {"looping": 2}}) == (
        "rows 3, length limited 1, dropped (looping 2)"
    )
    assert spelling.counts({}) == "none"
    assert cell("a|b\nc") == "a\\|b c"
