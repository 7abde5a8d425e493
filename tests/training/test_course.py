"""What validations say together: the best is kept, standing still is noticed, the end is foretold."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from speculators.training.course import Course
from speculators.training.noise import noise as noise_of
from speculators.training.noise import ratio
from speculators.training.validation import Judged

BROUGHT_MODELS = [10, 14, 8, 20, 12, 9]


def judged(*accepted: int) -> Judged:
    counts = tuple(zip(accepted, BROUGHT_MODELS))
    figures = {"acceptance_length": 1 + ratio(counts), "acceptance_error": noise_of(counts)}
    return Judged(figures, counts)


def walk(*rows: Judged) -> Course:
    course = Course()
    for number, row in enumerate(rows, start=1):
        course = course.after(row, number / len(rows), float(number), 4.0).course
    return course


POOR, FAIR, ALIKE, GOOD = (
    judged(2, 4, 1, 5, 3, 2),
    judged(5, 8, 4, 11, 7, 4),
    judged(6, 8, 3, 11, 7, 5),
    judged(9, 13, 7, 18, 11, 8),
)


def test_the_longest_is_kept_and_a_shorter_one_is_not() -> None:
    course = walk(POOR, GOOD, FAIR)
    assert (course.best_epoch, course.best, course.best_counts) == (2.0, GOOD.figures, GOOD.counts)
    assert course.validations == 3


def test_a_gain_within_its_noise_counts_as_standing_still_until_a_real_one_comes() -> None:
    assert walk(POOR, FAIR).stalled == 0
    assert walk(POOR, FAIR, ALIKE).stalled == 1
    assert walk(POOR, FAIR, ALIKE, FAIR).stalled == 2
    assert walk(POOR, FAIR, ALIKE, GOOD).stalled == 0
    assert walk(POOR, FAIR, ALIKE, FAIR).stalls(2)
    assert not walk(POOR, FAIR, ALIKE, FAIR).stalls(3)
    assert not walk(POOR, FAIR, ALIKE, FAIR).stalls(None)


def test_a_longer_draft_is_kept_even_if_its_gain_may_be_noise() -> None:
    better = judged(6, 8, 4, 11, 7, 4)
    verdict = walk(POOR, FAIR).after(better, 1.0, 3.0, 4.0)
    assert verdict.gain is not None
    assert verdict.gain.is_noise
    assert verdict.kept
    assert verdict.course.stalled == 1


def test_the_end_is_foretold_at_half_of_the_run_and_held_against_what_came() -> None:
    assert walk(POOR, FAIR).expected is None  # half way there is one point: nothing to draw a line through
    halfway = walk(POOR, FAIR, ALIKE, GOOD)
    assert halfway.expected is not None
    assert halfway.expected.points == 2
    outcome = halfway.outcome()
    assert outcome is not None
    assert outcome["came"] == GOOD.figures["acceptance_length"]
    assert outcome["held"] == halfway.expected.holds(outcome["came"])


def test_only_the_first_half_foretells() -> None:
    course = Course()
    for share, row in ((0.3, POOR), (0.6, FAIR), (0.9, GOOD)):
        course = course.after(row, share, 1.0, 4.0).course
    assert course.expected is None  # one point lies in the first half
    late = Course()
    for share, row in ((0.2, POOR), (0.4, FAIR), (0.6, GOOD)):
        late = late.after(row, share, 1.0, 4.0).course
    assert late.expected is not None
    assert late.expected.points == 2


def test_a_run_that_stops_before_its_end_leaves_the_forecast_open() -> None:
    course = Course()
    for share, row in ((0.25, POOR), (0.5, FAIR), (0.75, ALIKE)):
        course = course.after(row, share, 1.0, 4.0).course
    outcome = course.outcome()
    assert outcome is not None
    assert (outcome["came"], outcome["held"]) == (None, None)


def test_one_document_says_nothing_of_noise_but_the_longer_is_kept() -> None:
    single = [
        Judged({"acceptance_length": 1.0 + part, "acceptance_error": None}, ((part, 1),)) for part in (0, 1)
    ]
    course = walk(*single)
    assert (course.best_epoch, course.stalled, course.points, course.outcome()) == (2.0, 0, (), None)


def test_without_validation_documents_the_later_draft_is_the_better() -> None:
    verdict = Course().after(None, 0.5, 1.0, 4.0)
    assert verdict.kept
    assert verdict.course.after(None, 1.0, 2.0, 4.0).course.best_epoch == 2.0


COUNTS = st.lists(st.integers(0, 30), min_size=6, max_size=6)


@given(st.lists(COUNTS, max_size=6))
def test_a_course_survives_json(rows) -> None:
    course = walk(*(judged(*row) for row in rows))
    assert Course.of(json.loads(json.dumps(course._asdict()))) == course
