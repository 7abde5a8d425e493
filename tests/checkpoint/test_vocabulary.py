from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speculators.checkpoint.vocabulary import (
    coverage,
    from_offsets,
    membership,
    select_draft_ids,
    to_offsets,
    token_frequencies,
)
from speculators.errors import RecipeError
from tests.models import tiny

FREQUENCIES = st.lists(st.integers(0, 5), min_size=1, max_size=40)


@given(FREQUENCIES, st.data())
def test_no_token_left_out_is_more_frequent_or_ties_with_a_lower_id(counts, data) -> None:
    size = data.draw(st.integers(1, len(counts)))
    chosen = select_draft_ids(torch.tensor(counts), size).tolist()
    assert len(chosen) == size
    assert chosen == sorted(set(chosen))
    left_out = set(range(len(counts))) - set(chosen)
    assert all((-counts[kept], kept) < (-counts[out], out) for kept in chosen for out in left_out)


@given(FREQUENCIES, st.data())
def test_offsets_and_membership_say_the_same_and_lead_back(counts, data) -> None:
    size = data.draw(st.integers(1, len(counts)))
    chosen = select_draft_ids(torch.tensor(counts), size)
    d2t, t2d = to_offsets(chosen), membership(chosen, len(counts))
    assert torch.equal(from_offsets(d2t), chosen)
    assert torch.equal(t2d.nonzero().flatten(), chosen)
    assert d2t.dtype == torch.int64
    assert (d2t >= 0).all()


@given(FREQUENCIES, st.data())
def test_coverage_is_the_share_of_counted_tokens(counts, data) -> None:
    size = data.draw(st.integers(1, len(counts)))
    chosen = select_draft_ids(torch.tensor(counts), size)
    share = sum(counts[token] for token in chosen.tolist()) / sum(counts) if sum(counts) else 1.0
    assert coverage(torch.tensor(counts), chosen) == pytest.approx(share)
    assert coverage(torch.tensor(counts), torch.arange(len(counts))) == 1.0


def test_rare_data_is_filled_with_the_lowest_unused_ids() -> None:
    counts = torch.zeros(10, dtype=torch.int64)
    counts[[7, 2]] = torch.tensor([3, 1])
    assert select_draft_ids(counts, 5).tolist() == [0, 1, 2, 3, 7]


def test_only_generated_tokens_count() -> None:
    document = tiny.document(6, 4, 0)._replace(token_ids=torch.tensor([1, 1, 1, 1, 2, 3]))
    assert token_frequencies([document, document], 5).tolist() == [0, 0, 2, 2, 0]


@pytest.mark.parametrize("size", [0, 11])
def test_a_size_that_the_verifier_cannot_give_is_refused(size) -> None:
    with pytest.raises(RecipeError, match="draft_vocabulary"):
        select_draft_ids(torch.zeros(10), size)
