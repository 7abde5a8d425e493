from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from speculators.report.curves import loss_curve, validation_curve


@given(st.lists(st.floats(0, 9), max_size=50), st.integers(1, 12))
def test_a_thinned_curve_keeps_order_mean_and_length(losses: list[float], points: int) -> None:
    curve = loss_curve([{"kind": "step", "step": n, "loss": loss} for n, loss in enumerate(losses)], points)
    assert len(curve) == min(points, len(losses))
    assert [one["step"] for one in curve] == sorted({one["step"] for one in curve})
    if losses and len(losses) % points == 0:
        mean = sum(one["loss"] for one in curve) / len(curve)
        assert abs(mean - sum(losses) / len(losses)) < 1e-9


def test_validations_without_documents_are_gaps() -> None:
    rows = [
        {"kind": "step", "step": 1, "loss": 2.0},
        {"kind": "epoch", "epoch": 0.5, "validation": None},
        {"kind": "epoch", "epoch": 1, "validation": {"acceptance_length": 1.5, "joint": [0.5]}},
    ]
    assert validation_curve(rows) == [
        {"epoch": 0.5, "acceptance_length": None, "per_position": None, "accuracy": None},
        {"epoch": 1, "acceptance_length": 1.5, "per_position": None, "accuracy": [0.5]},
    ]
