"""Full-size steps on paper, of this trainer and the reference: what is committed is what runs, what formulas
say, and what the documentation prints."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.full_size_step import (
    GOLDEN,
    GOLDEN_REFERENCE,
    REDUCED,
    ROOT,
    SEED,
    STEPS,
    TOKENS,
    ours,
    theirs,
)
from benchmarks.shapes import SHAPES
from benchmarks.step_workload import documents
from speculators.training import step_cost
from tests.reference.environment import Side
from tests.reference.on_paper import full_size, rows_of

ROWS: list[dict[str, Any]] = json.loads(GOLDEN.read_text(encoding="utf-8"))
THEIRS: list[dict[str, Any]] = json.loads(GOLDEN_REFERENCE.read_text(encoding="utf-8"))
NAMES = [f"{row['verifier']}, {row['draft_vocabulary']} words, {row['supervised']} taught" for row in ROWS]
SETTING = ("verifier", "draft_vocabulary", "supervised")
#: Of the formula of memory: index tensors, norms and angles are left out of it.
NEAR = 0.03
#: GFLOP a token that a step needs which runs the rows that are asked and no others, by arithmetic on
#: Qwen3-8B's shapes with 32000 words and K = 3.
BARS = {1.0: 6.06, 0.6: 3.80, 0.3: 2.10, 0.1: 0.97}


def golden(verifier: str, words: int, supervised: float) -> dict[str, Any]:
    return next(row for row in ROWS if [row[name] for name in SETTING] == [verifier, words, supervised])


@pytest.mark.parametrize(
    ("verifier", "supervised"), [("qwen3-8b", 1.0), ("qwen3-8b", 0.3), ("llama-3.3-70b", 0.1)]
)
def test_a_step_costs_what_is_committed(verifier: str, supervised: float) -> None:
    """Of settings that take seconds; ``python benchmarks/full_size_step.py --golden`` writes all anew."""
    setting = {"verifier": verifier, "draft_vocabulary": REDUCED, "supervised": supervised}
    assert {**setting, **ours(verifier, REDUCED, supervised)} == golden(verifier, REDUCED, supervised)


def test_a_step_of_the_reference_costs_what_is_committed(reference: Side) -> None:
    setting = {"verifier": "qwen3-8b", "draft_vocabulary": REDUCED}
    (row,) = (one for one in THEIRS if setting.items() <= one.items())
    assert {**setting, **theirs(reference, "qwen3-8b", REDUCED)} == row


def test_the_documentation_prints_what_is_committed() -> None:
    page = (ROOT / "docs" / "trainer.md").read_text(encoding="utf-8")
    section = page.split("## A full-size step on paper\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if " this trainer |" in line or "| reference |" in line]
    found = [line.strip("| ").split(" | ")[-5:] for line in lines if line.count("|") == 8]
    expected = []
    for verifier in ("qwen3-8b", "llama-3.3-70b"):
        for words in sorted({row["draft_vocabulary"] for row in ROWS if row["verifier"] == verifier}):
            of = {"verifier": verifier, "draft_vocabulary": words}
            for side, rows in (("reference", THEIRS), ("this trainer", ROWS)):
                for row in (one for one in rows if of.items() <= one.items()):
                    figures = (row["weight_operations"] / TOKENS, row["resting"], row["peak"])
                    taught = str(row.get("supervised", "any"))
                    expected.append([side, taught, *(f"{figure / 1e9:.2f}" for figure in figures)])
    assert found == expected


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_the_formulas_that_plan_prints_say_what_was_counted(row: dict[str, Any]) -> None:
    shape = replace(SHAPES[row["verifier"]], draft_vocab_size=row["draft_vocabulary"])
    rows = rows_of(shape, documents(TOKENS, row["supervised"], SEED), STEPS)
    assert step_cost.operations(shape, rows) == row["weight_operations"]
    found = step_cost.memory(shape, rows)
    assert found.resting == pytest.approx(row["resting"], rel=NEAR)
    assert found.peak == pytest.approx(row["peak"], rel=NEAR)


def test_a_step_brings_nothing_from_the_host() -> None:
    """A copy from pageable memory would make the host wait for all that the device has still to do."""
    assert {row["arrivals"] for row in ROWS} == {0}


def test_a_second_sequence_of_a_step_needs_room_for_the_gradients_and_a_third_no_more() -> None:
    setting = (SHAPES["qwen3-8b"], documents(TOKENS, 0.3, SEED), STEPS)
    two, three = (full_size(*setting, sequences=number) for number in (2, 3))
    one = golden("qwen3-8b", REDUCED, 0.3)
    assert one["resting"] == two["resting"] == three["resting"]
    assert one["peak"] < two["peak"]
    assert three["peak"] == pytest.approx(two["peak"], abs=64)  # a sequence leaves its loss of each position
    said = step_cost.memory(setting[0], rows_of(*setting), several=True)
    assert said.peak == pytest.approx(two["peak"], rel=NEAR)


def test_the_bars_of_qwen3_8b_are_met() -> None:
    for supervised, bar in BARS.items():
        counted = golden("qwen3-8b", REDUCED, supervised)["weight_operations"] / TOKENS / 1e9
        assert counted <= 1.03 * bar, supervised
    reduced, full = (golden("qwen3-8b", words, 1.0)["peak"] for words in (REDUCED, 151936))
    assert reduced <= 12e9
    assert full - reduced < 1.5e9
