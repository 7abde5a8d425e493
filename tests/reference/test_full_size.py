"""Full-size steps of this trainer on paper: what is committed is what runs and what formulas say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.full_size_step import GOLDEN, REDUCED, SEED, STEPS, TOKENS, ours
from benchmarks.shapes import SHAPES
from benchmarks.step_workload import documents
from speculators.training import step_cost
from tests.reference.on_paper import rows_of

ROWS: list[dict[str, Any]] = json.loads(GOLDEN.read_text(encoding="utf-8"))
NAMES = [f"{row['verifier']}, {row['draft_vocabulary']} words, {row['supervised']} taught" for row in ROWS]
SETTING = ("verifier", "draft_vocabulary", "supervised")
#: Of the formula of memory: index tensors, norms and angles are left out of it.
NEAR = 0.03
#: GFLOP a token of the best known trainer that skips rows, of Qwen3-8B with 32000 words; see docs/trainer.md.
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


def test_the_bars_of_qwen3_8b_are_met() -> None:
    for supervised, bar in BARS.items():
        counted = golden("qwen3-8b", REDUCED, supervised)["weight_operations"] / TOKENS / 1e9
        assert counted <= 1.03 * bar, supervised
    reduced, full = (golden("qwen3-8b", words, 1.0)["peak"] for words in (REDUCED, 151936))
    assert reduced <= 12e9
    assert full - reduced < 1.5e9
