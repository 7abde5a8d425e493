from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from speculators.training.packing import plan_epoch
from speculators.training.run_plan import plan_run

LENGTHS = st.lists(st.integers(3, 16), min_size=1, max_size=20)


@given(LENGTHS, st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
def test_every_epoch_reads_every_document_once_and_ends_with_a_validation(
    lengths, sequences_per_step, epochs, validations
) -> None:
    plan = plan_run(lengths, 16, sequences_per_step, epochs, 7, validations)
    start = 0
    for epoch, end in enumerate(plan.epoch_ends):
        windows = plan.windows[start:end]
        assert [one for window in windows for one in window] == plan_epoch(lengths, 16, 7, epoch)
        assert all(len(window) <= sequences_per_step for window in windows)
        assert {plan.epoch_of(step) for step in range(start, end)} == {epoch + 1}
        assert end in plan.validations
        assert sum(start < place <= end for place in plan.validations) == min(validations, end - start)
        start = end
    assert list(plan.validations) == sorted(set(plan.validations))
    assert plan.validations_due(len(plan.windows)) == len(plan.validations)
    assert plan.epochs_done(len(plan.windows)) == epochs


def test_places_within_an_epoch_are_told_as_parts_of_it() -> None:
    plan = plan_run([16] * 4, 16, 1, 2, 0, 2)
    assert plan.validations == (2, 4, 6, 8)
    assert [plan.epochs_done(steps) for steps in (0, 2, 4, 7)] == [0, 0.5, 1, 1.75]
    assert [plan.validations_due(steps) for steps in (1, 2, 3, 8)] == [0, 1, 1, 4]


@given(LENGTHS, st.integers(1, 2), st.integers(1, 3), st.integers(1, 5), st.integers(0, 9))
def test_half_of_the_epochs_is_half_whatever_steps_they_have(
    lengths, sequences_per_step, pairs, validations, seed
) -> None:
    plan = plan_run(lengths, 16, sequences_per_step, 2 * pairs, seed, validations)
    assert plan.share(plan.epoch_ends[pairs - 1]) == 0.5
    assert plan.share(len(plan.windows)) == 1
    early = sum(plan.share(place) <= 0.5 for place in plan.validations)
    assert early == sum(place <= plan.epoch_ends[pairs - 1] for place in plan.validations)
    shares = [plan.share(place) for place in plan.validations]
    assert shares == sorted(set(shares))


def test_more_validations_than_an_epoch_has_steps_are_no_work() -> None:
    assert plan_run([16] * 4, 16, 1, 2, 0, 10**12) == plan_run([16] * 4, 16, 1, 2, 0, 4)
