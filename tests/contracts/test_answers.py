"""Comparing answers and the report: pure."""

from __future__ import annotations

from typing import NamedTuple

from tests.contracts.answers import Answer, Difference, differences, status
from tests.contracts.report import anything_missing, changed, report


class Row(NamedTuple):
    name: str
    relied: str = "it is there"
    used: str = "somewhere.py"


OLD = Answer({"config": {"dtype": "bfloat16", "sizes": [1, 2]}, "kept": 1})
NEW = Answer({"config": {"dtype": "float16", "sizes": [1, 2, 4]}, "kept": 1, "added": True})
BROKEN = Answer({}, ("no argument 'seed' any more",))


def test_differences_name_the_place_and_both_values() -> None:
    assert differences(OLD.facts, NEW.facts) == [
        Difference("config.dtype", "bfloat16", "float16"),
        Difference("config.sizes", [1, 2], [1, 2, 4]),
        Difference("added", None, True),
    ]
    assert differences(OLD.facts, OLD.facts) == []
    assert str(Difference("a", None, 1)) == "a: nothing -> 1"
    assert str(Difference("a", [1, 2], [2, 4])) == "a: -1, +4"
    assert str(Difference("a", [1, 2], [2, 1])) == "a: [1, 2] -> [2, 1]"


def test_missing_outweighs_a_difference() -> None:
    assert [status(OLD), status(NEW, OLD), status(OLD, OLD), status(BROKEN, OLD)] == [
        "ok",
        "differs",
        "ok",
        "missing",
    ]


def test_the_report_says_what_is_missing_and_what_differs_and_who_relies_on_it() -> None:
    engines = {"vllm-1": {"a": OLD, "b": OLD}, "vllm-2": {"a": NEW, "b": BROKEN}}
    text = report([Row("a"), Row("b", used="serving/command.py")], engines)
    assert [line.split() for line in text.splitlines()[:3]] == [
        ["question", "vllm-1", "vllm-2"],
        ["a", "ok", "differs"],
        ["b", "ok", "missing"],
    ]
    assert "MISSING in vllm-2: b" in text
    assert "used in:   serving/command.py\n  - no argument 'seed' any more" in text
    assert "DIFFERS from vllm-1 to vllm-2: a" in text
    assert "  - config.dtype: bfloat16 -> float16" in text
    # A question that failed has no facts: its absence is not a list of differences.
    assert "DIFFERS from vllm-1 to vllm-2: b" not in text
    assert anything_missing(engines)
    assert not anything_missing({"vllm-1": engines["vllm-1"]})


def test_an_engine_that_was_not_asked_a_question_is_shown() -> None:
    text = report([Row("a")], {"vllm-1": {"a": OLD}, "vllm-2": {}})
    assert text.splitlines()[1].split() == ["a", "ok", "not", "asked"]


def test_changes_list_facts_missing_things_and_questions_of_one_side() -> None:
    lines = changed({"a": OLD, "gone": OLD, "b": OLD}, {"a": NEW, "b": BROKEN, "new": OLD})
    assert "a: config.dtype: bfloat16 -> float16" in lines
    assert "gone: asked of one engine only" in lines
    assert "new: asked of one engine only" in lines
    assert "b: missing: () -> (\"no argument 'seed' any more\",)" in lines
    assert changed({"a": OLD}, {"a": OLD}) == []
