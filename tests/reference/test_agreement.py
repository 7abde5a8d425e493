"""Loss and every gradient equal the reference system's: same weights, batch and flags."""

from __future__ import annotations

from dataclasses import replace

import pytest

from speculators.pipeline.store import default_home
from tests.reference.cases import SHAPE, Agreement, agreements, random_case
from tests.reference.conftest import Answered, Ask
from tests.reference.environment import PACKAGES, Side
from tests.reference.inside.case import Case
from tests.reference.ours import IMPLEMENTATIONS, distance, taught

pytestmark = pytest.mark.integration

#: The reference computes in float32, and divides by a count of rows plus 1e-5.
TOLERANCE = 1e-5


ROPES = {
    "linear": {"rope_type": "linear", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
}


def test_the_package_that_answers_is_the_reference_and_not_this_project(reference: Side) -> None:
    about = reference.ask("about")
    assert f"speculators=={about['version']}" == PACKAGES[0]
    assert about["folder"] == str(default_home() / "reference" / PACKAGES[0])


def check(case: Case, theirs: Answered) -> None:
    """Every implementation of this project against the reference's answer."""
    for implementation in IMPLEMENTATIONS:
        ours = taught(case, implementation=implementation)
        assert ours.loss == pytest.approx(theirs.loss, rel=TOLERANCE), implementation
        assert ours.gradients.keys() == theirs.gradients.keys()
        for name, gradient in ours.gradients.items():
            assert distance(gradient, theirs.gradients[name]) < TOLERANCE, f"{implementation}: {name}"


@pytest.mark.parametrize("agreement", agreements(), ids=lambda one: one.name)
def test_loss_and_gradients_agree(ask: Ask, agreement: Agreement) -> None:
    case = random_case(agreement.shape(), agreement.steps)
    check(case, ask(case, agreement.attention))


@pytest.mark.parametrize("kind", ROPES)
def test_scaled_rope_agrees(ask: Ask, kind: str) -> None:
    case = random_case(replace(SHAPE, rope_scaling=ROPES[kind]), 3)
    check(case, ask(case))


def test_a_sliding_window_agrees_at_the_first_step(ask: Ask) -> None:
    """Later steps differ: see ``test_differences``."""
    case = random_case(replace(SHAPE, sliding_window=8), 1)
    check(case, ask(case))
