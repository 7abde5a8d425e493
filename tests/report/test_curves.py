from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculators.report.curves import lesson, loss_curve, validation_curve


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


def course(losses: list[float], gain: tuple[float, float] | None) -> list[dict[str, Any]]:
    """Two steps of each loss, and a validation after every second step; the last one gained ``gain``."""
    rows: list[dict[str, Any]] = []
    for number, loss in enumerate(losses, 1):
        rows += [{"kind": "step", "step": 2 * number - past, "loss": loss} for past in (1, 0)]
        rows.append(
            {"kind": "epoch", "step": 2 * number, "epoch": number, "gain": {"gain": 0.1, "noise": 0.01}}
        )
    rows[-1]["gain"] = gain and {"gain": gain[0], "noise": gain[1]}
    return rows


@pytest.mark.parametrize(
    ("losses", "gain", "text"),
    [
        ([9, 6.4, 5.3], (0.006, 0.006), "by -17%, the acceptance length on validation by +0.006 ± 0.006: it "
         "learns these conversations by heart. More prompts would help, more epochs hardly."),
        ([9, 8, 6.4], (0.038, 0.012), "by -20%, the acceptance length on validation by +0.038 ± 0.012: it "
         "was still learning, so more epochs may help."),
        ([9, 6, 5.9], (-0.01, 0.006), "by -2%, the acceptance length on validation by -0.010 ± 0.006."),
    ],
)  # fmt: skip
def test_the_last_stretch_says_what_would_help(
    losses: list[float], gain: tuple[float, float], text: str
) -> None:
    assert lesson(course(losses, gain)).endswith(text)


@pytest.mark.parametrize(
    "metrics", [[], course([9, 6], (0.1, 0.01)), course([9, 6, 5], None)], ids=["none", "two", "no gain"]
)
def test_too_little_says_nothing(metrics: list[dict[str, Any]]) -> None:
    assert lesson(metrics) == ""
