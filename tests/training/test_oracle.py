"""The fast trainer equals the dense one, whatever the documents, masks, shapes and flags are."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speculators.training.losses import LOSSES
from speculators.training.objective import Teaching
from speculators.training.packing import PackedSequence
from speculators.training.ttt import DenseTrainTimeTest, TrainTimeTest
from tests.models import tiny

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
ROPES = [None, {"rope_type": "linear", "factor": 2.0}, LLAMA3, YARN]
NORMS = [
    {"norm_before_fc": True},
    {"norm_before_fc": False, "fc_norm": True},
    {"norm_before_fc": False},
]
flags = st.fixed_dictionaries(
    {
        "layers": st.integers(1, 3),
        "num_key_value_heads": st.sampled_from([1, 2, 4]),
        "rope_scaling": st.sampled_from(ROPES),
        "sliding_window": st.sampled_from([None, 8, 20]),
        "norm_before_residual": st.booleans(),
        "norm_output": st.booleans(),
    }
)
shapes = st.builds(lambda some, norms: tiny.config(**some, **norms), flags, st.sampled_from(NORMS))


WAYS = (TrainTimeTest, DenseTrainTimeTest)


class Step(NamedTuple):
    """What one backward leaves."""

    sums: torch.Tensor  # [K]
    loss: float
    gradients: dict[str, torch.Tensor]


def step(way: type[TrainTimeTest], shape: Any, sequence: PackedSequence, teaching: Teaching) -> Step:
    dtype = sequence.hidden_states.dtype
    objective = way(tiny.draft(shape, dtype=dtype), tiny.frozen(dtype), teaching)
    batch = objective.batch(sequence, torch.Generator())
    weights = objective.weights(torch.tensor(batch.supervised))
    sums = objective.backward(batch, weights)
    gradients = {name: parameter.grad for name, parameter in objective.draft.named_parameters()}
    return Step(sums, float((sums * weights).sum()), gradients)


def assert_equal(fast: Step, dense: Step, bound: float) -> None:
    """Loss and every gradient, relative to their norms."""
    assert fast.loss == pytest.approx(dense.loss, rel=bound, abs=1e-12)
    torch.testing.assert_close(fast.sums, dense.sums, rtol=bound, atol=1e-10)
    assert fast.gradients.keys() == dense.gradients.keys()
    whole = torch.cat([gradient.flatten() for gradient in dense.gradients.values()]).norm()
    rounding = max(1e-3 * bound, 4 * torch.finfo(whole.dtype).eps) * whole
    for name, gradient in dense.gradients.items():
        difference = (fast.gradients[name] - gradient).norm()
        # Terms that cancel, as of a row that sees only itself, leave the rounding of what cancelled.
        assert difference <= max(bound * gradient.norm(), rounding), name


losses = st.dictionaries(st.sampled_from(sorted(LOSSES)), st.sampled_from([1.0, 0.3]), min_size=1, max_size=2)


@settings(max_examples=60, deadline=None)
@given(shapes, tiny.sequences(), st.integers(1, 7), losses, st.booleans(), st.sampled_from([1, 8]))
def test_in_double_precision(shape, sequence, steps, losses, checkpointing, bucket) -> None:
    teaching = Teaching(steps, 0.8, losses, checkpointing=checkpointing, row_bucket=bucket)
    sequence = sequence._replace(hidden_states=sequence.hidden_states.double())
    assert_equal(
        *(step(way, shape, sequence, teaching) for way in (TrainTimeTest, DenseTrainTimeTest)), 1e-10
    )


@settings(max_examples=25, deadline=None)
@given(shapes, tiny.sequences(), st.integers(1, 5))
def test_in_single_precision(shape, sequence, steps) -> None:
    teaching = Teaching(steps)
    assert_equal(*(step(way, shape, sequence, teaching) for way in WAYS), 1e-5)
