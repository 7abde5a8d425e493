from __future__ import annotations

from speculators.report import markdown


def test_what_was_not_measured_is_said_and_never_spelled_as_a_number() -> None:
    for spell in (
        markdown.number,
        markdown.percent,
        markdown.difference,
        markdown.interval,
        markdown.rates,
        markdown.seconds,
        markdown.bytes_,
    ):
        assert spell(None) == "not measured"


def test_figures() -> None:
    assert markdown.number(1234.567) == "1,234.57"
    assert markdown.percent(0.9814) == "98.1%"
    assert markdown.difference(-0.021) == "-2.1%"
    assert markdown.rates([0.5, 0.25]) == "0.500 / 0.250"
    assert markdown.interval({"mean": 1.2, "low": 1.1, "high": 1.3}) == "1.20× [1.10, 1.30]"
    assert markdown.interval({"mean": 1.2, "low": None, "high": None}) == "1.20× (one round: no interval)"


def test_counts_are_spelled_in_words() -> None:
    assert markdown.counts({"rows": 3, "length_limited": 1, "dropped": {"looping": 2}}) == (
        "rows 3, length limited 1, dropped (looping 2)"
    )
    assert markdown.counts({}) == "none"
    assert markdown.cell("a|b\nc") == "a\\|b c"
