"""What validations say together: the best is kept, standing still is noticed, the end is foretold."""

from __future__ import annotations

import json
import random

from hypothesis import given
from hypothesis import strategies as st

from speculators.training.course import Course
from speculators.training.noise import gain, ratio
from speculators.training.noise import noise as noise_of
from speculators.training.validation import Judged

BROUGHT_MODELS = [10, 14, 8, 20, 12, 9]


def judged(*accepted: int) -> Judged:
    counts = tuple(zip(accepted, BROUGHT_MODELS))
    figures = {"acceptance_length": 1 + ratio(counts), "acceptance_error": noise_of(counts)}
    return Judged(figures, counts)


def walk(*rows: Judged, patience: int | None = None) -> Course:
    course = Course()
    for number, row in enumerate(rows, start=1):
        course = course.after(row, number / len(rows), float(number), 4.0, patience).course
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


def test_a_published_start_has_to_be_surpassed() -> None:
    start = Course.from_published(FAIR)
    worse = start.after(POOR, 0.5, 1.0, 4.0)
    assert (worse.kept, worse.course.best_epoch, worse.course.best) == (False, 0, FAIR.figures)
    assert worse.gain == gain(FAIR.counts, POOR.counts)
    better = worse.course.after(GOOD, 1.0, 2.0, 4.0)
    assert (better.kept, better.course.best_epoch, better.course.best) == (True, 2.0, GOOD.figures)


def test_a_run_stalls_when_its_recent_validations_together_gain_no_more_than_noise() -> None:
    assert not walk(FAIR, ALIKE, patience=1).stalls  # too few to tell
    assert walk(FAIR, ALIKE, FAIR, patience=1).stalls
    assert walk(GOOD, FAIR, POOR, patience=1).stalls
    assert walk(FAIR, FAIR, FAIR, patience=1).stalls  # without any noise
    assert not walk(POOR, FAIR, ALIKE, patience=1).stalls
    assert walk(POOR, FAIR, ALIKE, FAIR, patience=1).stalls  # which no longer knows of the poor one
    assert not walk(POOR, FAIR, ALIKE, FAIR, FAIR, patience=2).stalls
    assert not walk(*[FAIR] * 9).stalls


def validations(seed: int, each: float, count: int = 12) -> list[Judged]:
    """Of a draft that truly gains ``each`` every time, and by chance something else on every document."""
    draw, found = random.Random(seed), []
    documents = [(draw.gauss(0.45, 0.08), draw.randint(30, 90)) for _ in range(40)]
    for number in range(count):
        counts = tuple(
            (max(0, round(drafts * (rate + number * each + draw.gauss(0, 0.07)))), drafts)
            for rate, drafts in documents
        )
        figures = {"acceptance_length": 1 + ratio(counts), "acceptance_error": noise_of(counts)}
        found.append(Judged(figures, counts))
    return found


def stops(each: float, patience: int, runs: int = 60) -> list[int]:
    """After how many validations each run was stopped of those that were."""
    found = []
    for seed in range(runs):
        course = Course()
        for number, one in enumerate(validations(seed, each), start=1):
            course = course.after(one, number / 12, float(number), 4.0, patience).course
            if course.stalls:
                found.append(number)
                break
    return found


def test_a_steady_gain_that_each_time_hides_in_its_noise_is_not_taken_for_a_stand_still() -> None:
    """A rule that asks a sure gain of single validations stops nearly all of these."""
    apart = [gain(*(one.counts for one in validations(seed, 0.012, 2))).noise for seed in range(20)]
    assert 0.015 < sum(apart) / len(apart) < 0.018
    assert len(stops(0.012, 2)) <= 12
    assert len(stops(0.012, 3)) <= 1


def test_a_draft_that_stands_still_or_falls_back_is_stopped() -> None:
    for patience, soonest in ((1, 3), (2, 5), (3, 7)):
        still, falling = stops(0.0, patience), stops(-0.012, patience)
        assert len(still) == len(falling) == 60
        assert sum(still) / 60 < soonest + 1
        assert set(falling) == {soonest}


def test_a_longer_draft_is_kept_even_if_its_gain_may_be_noise() -> None:
    better = judged(6, 8, 4, 11, 7, 4)
    verdict = walk(POOR, FAIR).after(better, 1.0, 3.0, 4.0)
    assert verdict.gain is not None
    assert verdict.gain.is_noise
    assert verdict.kept


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
    course = walk(*single, patience=1)
    assert (course.best_epoch, course.recent, course.points, course.outcome()) == (2.0, (), (), None)


def test_without_validation_documents_the_later_draft_is_the_better() -> None:
    verdict = Course().after(None, 0.5, 1.0, 4.0)
    assert verdict.kept
    assert verdict.course.after(None, 1.0, 2.0, 4.0).course.best_epoch == 2.0


COUNTS = st.lists(st.integers(0, 30), min_size=6, max_size=6)


@given(st.lists(COUNTS, max_size=6), st.sampled_from([None, 1, 2]))
def test_a_course_survives_json(rows, patience) -> None:
    course = walk(*(judged(*row) for row in rows), patience=patience)
    assert Course.of(json.loads(json.dumps(course._asdict()))) == course
