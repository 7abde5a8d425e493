"""The training benchmark measures what it says: its batches, its products, and a sitting of both sides."""

from __future__ import annotations

from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.step_table import Round, Setting, Step, table
from benchmarks.step_workload import SHORTEST, documents
from benchmarks.train_step import Sitting
from tests.reference.cases import SHAPE
from tests.reference.conftest import Ask
from tests.reference.inside import measure


@given(st.integers(256, 20000), st.floats(0.05, 1.0), st.integers(0, 99), st.integers(1, 6))
def test_documents_fill_the_pack_and_are_taught_as_asked(tokens, supervised, seed, shortest) -> None:
    made = documents(tokens, supervised, seed, shortest)
    assert sum(length for length, _ in made) == tokens
    assert min(length for length, _ in made) >= SHORTEST
    taught = sum(length - prompt for length, prompt in made) / tokens
    assert taught == pytest.approx(supervised, abs=(shortest + 0.5) / SHORTEST)


def test_products_are_counted_by_the_layouts_of_their_factors() -> None:
    left, right, bias = torch.randn(6, 4), torch.randn(4, 5), torch.randn(5)
    with measure.Products() as products:
        left @ right
        left @ right
        right.T @ left.T
        torch.nn.functional.linear(left, right.T, bias)
        left * 2
    counted = {(tuple(a[0]), tuple(b[0])): count for count, a, b in products.document()}
    assert counted == {((6, 4), (4, 5)): 3, ((5, 4), (4, 6)): 1}
    alone = measure.replay(products.document())
    assert alone["operations"] == 4 * 2 * 6 * 4 * 5
    assert alone["seconds"] > 0


def test_memory_is_that_of_the_block_and_the_peak_is_forgotten_between_blocks() -> None:
    size = 64 * 2**20
    with measure.Cost() as large:
        torch.ones(size, dtype=torch.uint8)
    with measure.Cost() as small:
        pass
    assert 0.9 * size < large.peak - small.peak < 1.5 * size


def test_ratios_are_of_rounds_and_memory_is_the_most_of_them() -> None:
    rounds = [
        Round({"fast": Step(1.0, 2.0, 5.0, 100), "reference": Step(4.0, 6.0, 5.0, 300)}, 0.5, 10**9),
        Round({"fast": Step(2.0, 4.0, 4.0, 200), "reference": Step(8.0, 12.0, 4.004, 400)}, 1.0, 10**9),
    ]
    setting = Setting(("fast", "reference"), 1000, 0.3, rounds)
    assert setting.speedup("reference").mean == pytest.approx(4.0)
    assert setting.speedup("reference", "processor_seconds").mean == pytest.approx(3.0)
    assert setting.memory("fast") / setting.memory("reference") == pytest.approx(0.5)
    assert setting.matmul_share == pytest.approx(0.5)
    assert setting.drift == pytest.approx(0.001)
    assert "4.00 (4.00 to 4.00)" in table([setting])


@pytest.mark.integration
def test_a_sitting_of_both_sides_takes_the_same_steps(ask: Ask, tmp_path: Path) -> None:
    """``ask`` is wanted for what it leaves out: a machine without the reference."""
    options = Namespace(sides=["fast", "reference"], steps=3, attention="sdpa", optimizer="adamw")
    with ExitStack() as stack:
        sitting = Sitting(options, SHAPE, tmp_path, stack)
        batch, taught = sitting.batch(256, 0.4, seed=1)
        before, after = sitting.round(batch), sitting.round(batch)
    assert taught == pytest.approx(0.4, abs=0.05)
    for one in (before, after):
        assert one.steps["fast"].loss == pytest.approx(one.steps["reference"].loss, rel=1e-4)
        assert one.operations > 0
    assert after.steps["fast"].loss < before.steps["fast"].loss, "no step was taken"
