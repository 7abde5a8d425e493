"""Prompt lookup: what vLLM's proposer proposes, and what a request then counts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculators.benchmark.ngram import look_up, proposals, propose

METHOD = {"prompt_lookup_min": 2, "prompt_lookup_max": 4}
few = st.lists(st.integers(0, 2), min_size=1, max_size=30)


def test_the_longest_suffix_wins_and_of_equals_the_earliest() -> None:
    assert propose([1, 2, 7, 9, 2, 7, 8, 1, 2, 7], 2, 4, 2) == [9, 2]  # 1 2 7, not 2 7
    assert propose([2, 7, 5, 2, 7, 6, 2, 7], 2, 4, 1) == [5]


def test_a_suffix_that_is_too_short_or_new_proposes_nothing() -> None:
    assert propose([1, 2, 3, 1], 2, 4, 3) == []
    assert propose([1], 2, 4, 3) == []


@given(few, st.integers(1, 4))
def test_it_proposes_what_vllms_own_proposer_does(tokens: list[int], count: int) -> None:
    numpy = pytest.importorskip("numpy")
    theirs = pytest.importorskip("vllm.v1.spec_decode.ngram_proposer")
    find = theirs._find_longest_matched_ngram_and_propose_tokens.py_func
    found = find(numpy.array(tokens), min_ngram=2, max_ngram=4, max_model_len=64, k=count)
    assert propose(tokens, 2, 4, count) == found.tolist()


def test_a_request_is_served_step_by_step() -> None:
    # The prompt holds 5 6 7 8; the answer repeats it and goes on otherwise.
    counts = look_up([5, 6, 7, 8, 9], [5, 6, 7, 8, 1, 1], METHOD, 2, None)
    # After 5: nothing (one token).  After 5 6: 7 8, both right, then 1.  After 8 1: nothing.
    assert counts == (1, 2, 0)


def test_what_lies_beyond_the_last_token_is_undecided() -> None:
    assert look_up([5, 6, 7, 8, 9], [5, 6, 7], METHOD, 2, None) == (1, 1, 1)


def test_the_context_ends_the_proposals() -> None:
    assert look_up([5, 6, 7, 8, 9], [5, 6, 7, 8], METHOD, 4, 8) == (1, 1, 0)


def rows(drafts: int, accepted: int, text: str = "t") -> list[dict[str, Any]]:
    spec = {"drafts": drafts, "accepted": accepted}
    return [{"requests": [{"id": "a", "spec": spec, "text_sha256": text}]}]


EXPECTED = {"a": {"drafts": 4, "accepted": 3, "undecided": 1, "text_sha256": "t"}}


@pytest.mark.parametrize(
    ("counted", "ok"), [((4, 3), True), ((4, 4), True), ((4, 5), False), ((5, 3), False)]
)
def test_counts_of_the_engine_are_compared(counted: tuple[int, int], ok: bool) -> None:
    assert proposals(rows(*counted), {"ngram": EXPECTED})["ok"] is ok


def test_other_texts_are_not_compared() -> None:
    assert proposals(rows(4, 3, "other"), {"ngram": EXPECTED})["ok"] is None


def test_a_replay_that_failed_says_why() -> None:
    found = proposals(rows(4, 3), {"not_looked_up": "not computed: KeyError: 'text'"})
    assert (found["ok"], found["detail"]) == (None, "not computed: KeyError: 'text'")
