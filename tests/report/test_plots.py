from __future__ import annotations

import copy
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculators.report import plots, svg
from speculators.report.document import write_report
from tests.report.documents import record, with_examples

DRAW = (plots.speedup, plots.acceptance, plots.loss, plots.accuracy, plots.stage_seconds, plots.stage_bytes)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_report(with_examples(tmp_path_factory.mktemp("run")), record())


def marks(drawing: Any, kind: str) -> list[dict[str, str]]:
    """The attributes of every mark of a kind."""
    root = ElementTree.fromstring(str(drawing))
    return [one.attrib for one in root.iter() if kind in one.get("class", "").split()]


@pytest.mark.parametrize("draw", DRAW, ids=lambda draw: draw.__name__)
def test_a_plot_is_one_picture_with_words_and_all_its_marks_within(
    draw: Any, document: dict[str, Any]
) -> None:
    drawing = str(draw(document))
    root = ElementTree.fromstring(drawing)
    assert root.get("role") == "img"
    assert len(root.get("aria-label", "")) > 10
    width, height = map(float, root.get("viewBox", "").split()[2:])
    for one in root.iter():
        across = [float(one.get(name, 0)) for name in ("x", "x1", "x2", "cx")]
        down = [float(one.get(name, 0)) for name in ("y", "y1", "y2", "cy")]
        assert all(0 <= place <= width for place in across)
        assert all(0 <= place <= height for place in down)
    assert "nan" not in re.sub(r'aria-label="[^"]*"', "", drawing)


def test_the_mean_stands_within_its_interval_and_over_its_rounds(document: dict[str, Any]) -> None:
    drawing = plots.speedup(document)
    means, dots = marks(drawing, "mean"), marks(drawing, "round")
    loads = [one for one in document["summary"]["speed"] if one["speedup"]]
    assert (len(means), len(dots)) == (len(loads), sum(len(one["rounds"]) for one in loads))
    lines = [one for one in marks(drawing, "whisker") if "x1" in one and one["x1"] == one["x2"]]
    for mean, line in zip(means, lines, strict=True):
        assert float(line["y2"]) <= float(mean["cy"]) <= float(line["y1"])


def test_an_interval_wider_than_the_panel_ends_in_arrows(document: dict[str, Any]) -> None:
    wide = copy.deepcopy(document)
    for one in wide["summary"]["speed"]:
        one["speedup"] |= {"low": 1e-9, "high": 1e9}
    arrows = [one for one in marks(plots.speedup(wide), "whisker") if "points" in one]
    assert len(arrows) == 2 * len(wide["summary"]["speed"])


def test_a_free_arm_is_drawn_beside_the_draft(document: dict[str, Any]) -> None:
    more = copy.deepcopy(document)
    more["summary"]["extra_arms"] = [{"arm": "ngram", "speed": more["summary"]["speed"]}]
    drawing = plots.speedup(more)
    places = {one["cx"]: one["class"] for one in marks(drawing, "mean")}
    loads = len(more["summary"]["speed"])
    assert sorted(places.values()) == ["mean arm0"] * loads + ["mean arm1"] * loads


def test_nothing_measured_is_no_plot(document: dict[str, Any]) -> None:
    empty = copy.deepcopy(document)
    for one in empty["summary"]["speed"]:
        one["speedup"] = None
    empty["summary"]["acceptance"] |= {"served": None, "predicted": None}
    empty |= {"training": None, "stages": []}
    assert [draw(empty) for draw in DRAW] == [None] * len(DRAW)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_are_round_within_and_neither_few_nor_many(low: float, span: float, count: int) -> None:
    found = svg.ticks(low, low + span, count)
    assert all(low - span * 1e-6 <= one <= low + span * 1.000001 for one in found)
    assert count / 2.6 - 1 <= len(found) <= count + 1


@given(st.floats(0.05, 1.0), st.floats(1.0, 20.0))
def test_ratio_ticks_have_the_one_and_keep_apart(low: float, high: float) -> None:
    found = svg.ratio_ticks(low / 1.01, high * 1.01)
    assert 1.0 in found
    assert len(found) <= 10


@given(st.floats(0.1, 10), st.floats(0.1, 10))
def test_equal_ratios_are_equal_lengths(one: float, other: float) -> None:
    scale = svg.logarithmic(0.001, 1000, 0, 600)
    assert scale(one) - scale(other) == pytest.approx(scale(one / other) - scale(1), abs=1e-6)


def test_words_are_escaped() -> None:
    assert "<b>" not in svg.text(0, 0, "<b>")
    assert "&lt;b&gt;" in svg.text(0, 0, "<b>")
