"""The noise of a replayed acceptance length against what resampling documents says, and its laws."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculators.training.noise import gain, influences, noise, ratio, trend

COUNTS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), min_size=2, max_size=30)


def documents(seed: int, size: int) -> list[tuple[int, int]]:
    """Documents that are easy or hard as a whole: what makes drafts of one document depend on each other."""
    draw = random.Random(seed)
    found = []
    for _ in range(size):
        drafts, chance = draw.randint(5, 30), draw.betavariate(3, 4)
        found.append((sum(draw.random() < chance for _ in range(3 * drafts)), drafts))
    return found


def test_the_noise_is_what_resampling_documents_shows() -> None:
    counts, draw = documents(0, 60), random.Random(1)
    resampled = [ratio(draw.choices(counts, k=len(counts))) for _ in range(2000)]
    assert noise(counts) == pytest.approx(statistics.stdev(resampled), rel=0.1)


def test_counting_drafts_as_independent_would_claim_too_much() -> None:
    counts = documents(2, 60)
    drafts = sum(one for _, one in counts)
    share = ratio(counts) / 3
    assert noise(counts) > 1.5 * math.sqrt(9 * share * (1 - share) / (3 * drafts))


def test_a_gain_on_the_same_documents_is_surer_than_either_length() -> None:
    before = documents(3, 60)
    after = [(accepted + drafts // 3, drafts) for accepted, drafts in before]
    found = gain(before, after)
    assert found.gain == pytest.approx(ratio(after) - ratio(before))
    assert found.noise < 0.5 * noise(before)
    assert not found.is_noise


def test_the_noise_of_a_gain_is_what_resampling_pairs_shows() -> None:
    before, draw = documents(4, 60), random.Random(5)
    after = [
        (min(3 * drafts, max(0, accepted + draw.randint(-3, 6))), max(1, drafts + draw.randint(-2, 1)))
        for accepted, drafts in before
    ]
    pairs = list(zip(before, after))
    gains = []
    for _ in range(2000):
        one, other = zip(*draw.choices(pairs, k=len(pairs)))
        gains.append(ratio(other) - ratio(one))
    assert gain(before, after).noise == pytest.approx(statistics.stdev(gains), rel=0.1)


@given(COUNTS)
def test_one_draft_a_document_is_the_standard_error_of_a_mean(counts) -> None:
    single = [(accepted, 1) for accepted, _ in counts]
    expected = statistics.stdev(accepted for accepted, _ in single) / math.sqrt(len(single))
    assert noise(single) == pytest.approx(expected, abs=1e-12)


@given(COUNTS, st.randoms())
def test_order_does_not_matter_and_nothing_is_gained_by_standing_still(counts, draw) -> None:
    shuffled = draw.sample(counts, len(counts))
    assert noise(shuffled) == pytest.approx(noise(counts), abs=1e-12)
    assert gain(counts, counts) == (0.0, 0.0)
    assert sum(influences(counts)) == pytest.approx(0.0, abs=1e-9)


@given(COUNTS, COUNTS)
def test_a_gain_turned_round_is_a_loss_of_the_same_noise(one, other) -> None:
    size = min(len(one), len(other))
    there, back = gain(one[:size], other[:size]), gain(other[:size], one[:size])
    assert (there.gain, there.noise) == (pytest.approx(-back.gain), pytest.approx(back.noise))
    assert there.is_noise or back.is_noise or there.gain == 0


@given(COUNTS, st.integers(2, 7), st.integers(0, 3))
def test_a_line_through_validations_gains_what_they_gain_evenly(counts, number, each) -> None:
    rising = [
        [(accepted + step * each * drafts, drafts) for accepted, drafts in counts] for step in range(number)
    ]
    found = trend(rising)
    assert found.gain == pytest.approx((number - 1) * each, abs=1e-9)
    assert found.noise == pytest.approx(0.0, abs=1e-9)  # all documents gain alike


def test_the_noise_of_a_line_is_what_resampling_documents_shows() -> None:
    draw = random.Random(7)
    by_document = [
        [(max(0, accepted + draw.randint(-4, 4) + step), drafts) for step in range(5)]
        for accepted, drafts in documents(6, 60)
    ]
    gains = [trend([*zip(*draw.choices(by_document, k=60))]).gain for _ in range(1000)]
    found = trend([*zip(*by_document)])
    assert found.noise == pytest.approx(statistics.stdev(gains), rel=0.1)
    assert found.noise < gain(*([each[at] for each in by_document] for at in (0, 4))).noise


@given(COUNTS, st.integers(2, 5))
def test_copies_of_all_documents_shrink_the_noise_like_more_data(counts, copies) -> None:
    size = len(counts)
    scale = math.sqrt((size - 1) / (size * copies - 1))
    assert noise(counts * copies) == pytest.approx(noise(counts) * scale, abs=1e-12)


@pytest.mark.parametrize("counts", [[], [(3, 4)]])
def test_nothing_is_sure_with_less_than_two_documents(counts) -> None:
    assert noise(counts) == math.inf
    assert gain(counts, counts).is_noise
