"""``--set``: what it changes, and that it can do nothing a file cannot."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from speculators.recipe.overrides import apply_overrides
from speculators.recipe.positions import Positions
from speculators.recipe.yaml_loader import load_yaml

TEXT = "training:\n  epochs: 6\nbenchmark:\n  concurrency: [1, 4]\nengine:\n  args: {dtype: float32}\n"
DOCUMENT = load_yaml(TEXT, "r.yaml")


def merged(*arguments: str) -> tuple[Any, Positions]:
    result = apply_overrides(DOCUMENT.data, DOCUMENT.positions, arguments)
    assert result.diagnostics == ()
    return result.data, result.positions


def test_a_value_is_set_and_the_rest_stays() -> None:
    data, _ = merged("training.epochs=2")
    assert data == {**DOCUMENT.data, "training": {"epochs": 2}}


def test_the_given_data_is_not_changed() -> None:
    merged("training.epochs=2", "engine.args.dtype=bfloat16")
    assert load_yaml(TEXT, "r.yaml").data == DOCUMENT.data


def test_lists_are_replaced_whole() -> None:
    data, _ = merged("benchmark.concurrency=[8]")
    assert data["benchmark"]["concurrency"] == [8]


def test_the_last_of_two_wins() -> None:
    data, positions = merged("training.epochs=2", "training.epochs=3")
    assert data["training"]["epochs"] == 3
    assert positions.value(("training", "epochs")).file == "--set[2]"


def test_blocks_on_the_way_are_made() -> None:
    data, _ = merged("datagen.prompts.magpie.count=5")
    assert data["datagen"] == {"prompts": {"magpie": {"count": 5}}}


def test_only_the_first_equals_sign_splits() -> None:
    data, _ = merged("engine.env.OPTIONS=a=b=c")
    assert data["engine"]["env"] == {"OPTIONS": "a=b=c"}


def test_values_follow_the_rules_of_the_file() -> None:
    data, _ = merged("verifier.thinking=off", "training.learning_rate=1e-4", "training.ttt_steps=")
    assert data["verifier"]["thinking"] == "off"
    assert data["training"]["learning_rate"] == 1e-4
    assert data["training"]["ttt_steps"] is None


def test_a_place_in_the_argument_belongs_to_each_value() -> None:
    _, positions = merged("benchmark.concurrency=[1, 16]")
    mark = positions.value(("benchmark", "concurrency", 1))
    assert (mark.file, mark.line, mark.col, mark.width) == ("--set[1]", 1, 27, 2)
    assert positions.value(("training", "epochs")).file == "r.yaml"


def test_bad_arguments_change_nothing() -> None:
    arguments = ("training.epochs", "=5", "training..epochs=5", "nothing.at.all=1", "training.epochs=[1")
    result = apply_overrides(DOCUMENT.data, DOCUMENT.positions, arguments)
    assert result.data == DOCUMENT.data
    assert [item.file for item in result.diagnostics] == [f"--set[{n}]" for n in (1, 2, 3, 4, 5)]


@given(st.integers() | st.booleans() | st.lists(st.integers(), max_size=3) | st.none())
def test_any_json_value_arrives(value: Any) -> None:
    data, _ = merged(f"engine.args.some_name={json.dumps(value)}")
    assert data["engine"]["args"]["some_name"] == value


@given(st.text(max_size=40))
def test_no_argument_makes_it_raise(argument: str) -> None:
    result = apply_overrides(DOCUMENT.data, DOCUMENT.positions, (argument,))
    assert all(item.file == "--set[1]" for item in result.diagnostics)
