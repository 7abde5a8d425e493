"""What is kept of each draft, and how its words are spelled, on documents small enough to follow by hand."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from speculators.inspection.drafts import CONTEXT, LONGEST, Draft, Drafted, drafts_of, extremes, spelled
from speculators.training.acceptance import Replayed, Tally, leading_matches, tally

WORDS = {1: " the", 2: " cat", 3: " sat", 4: " on", 5: " mats"}


def decode(tokens: Sequence[int]) -> str:
    """As SentencePiece does it: no space before the first word."""
    return "".join(WORDS[token] for token in tokens).removeprefix(" ")


def drafted(name: str, accepted: int, drafts: int, *, looping: bool = False) -> Drafted:
    one = Replayed(name, looping, 9, Tally(drafts, (accepted,), 0))
    return Drafted(one, (), (), tuple(Draft(1, 0, None) for _ in range(drafts)))


def names(rows: Sequence[Drafted]) -> list[str]:
    return [one.replayed.id for one in rows]


def test_a_draft_keeps_what_was_accepted_and_the_first_wrong_token() -> None:
    # Two prompt tokens, then 3, 4, 5, 1: the first is free, then two are drafted at a time.
    proposed = [[-1, -1], [4, 2], [2, 2], [1, -1], [-1, -1], [-1, -1]]
    matches = [[False, False], [True, False], [False, False], [True, False], [False, False], [False, False]]
    assert drafts_of(proposed, leading_matches(matches), 2) == (Draft(1, 1, 2), Draft(3, 1, None))


@given(st.data())
def test_the_drafts_of_a_document_are_those_that_are_counted(data: st.DataObject) -> None:
    length, prompt, steps = (data.draw(st.integers(*span)) for span in ((1, 12), (1, 12), (1, 4)))
    row = st.lists(st.booleans(), min_size=steps, max_size=steps)
    matches = data.draw(st.lists(row, min_size=length, max_size=length))
    known = [[hit and r + 2 + k < length for k, hit in enumerate(row)] for r, row in enumerate(matches)]
    proposed = [[7 if r + 2 + k < length else -1 for k in range(steps)] for r in range(length)]
    drafts, counted = drafts_of(proposed, leading_matches(known), prompt), tally(known, prompt)
    assert len(drafts) == counted.drafts
    assert sum(one.accepted for one in drafts) == sum(counted.accepted)
    ends = [one.at + one.accepted + 1 for one in drafts]
    assert [one.at for one in drafts] == [1, *ends[:-1]][: len(drafts)]


def test_the_worst_and_the_best_are_told_apart_and_looping_answers_left_out() -> None:
    rows = [drafted("a", 1, 4), drafted("b", 3, 4), drafted("c", 2, 4), drafted("d", 4, 4, looping=True)]
    chosen = extremes([*rows, drafted("nothing drafted", 0, 0)])
    assert {name: names(some) for name, some in chosen.items()} == {"worst": ["a"], "best": ["b"]}


def test_where_every_answer_loops_they_are_shown_all_the_same() -> None:
    chosen = extremes([drafted("a", 1, 4, looping=True), drafted("b", 3, 4, looping=True)])
    assert {name: names(some) for name, some in chosen.items()} == {"worst": ["a"], "best": ["b"]}


def test_a_single_answer_is_not_shown_twice_and_none_is_no_error() -> None:
    assert {name: names(some) for name, some in extremes([drafted("a", 1, 4)]).items()} == {
        "worst": ["a"],
        "best": [],
    }
    assert extremes([]) == {"worst": [], "best": []}


def test_words_keep_their_spaces_and_a_miss_stands_in_the_place_of_the_right_word() -> None:
    one = drafted("a", 1, 1)._replace(prompt=(1,), answer=(1, 2, 3, 4), drafts=(Draft(1, 1, 5),))
    assert spelled(one, decode) == {
        "id": "a",
        "looping": False,
        "prompt": "the",
        "tokens": ["the", " cat", " sat", " on"],
        "cut": 0,
        "drafts": [[1, 1, " mats"]],
    }


def test_half_a_character_is_spelled_by_itself() -> None:
    halves = {1: b"caf", 2: b"\xc3", 3: b"\xa9"}
    one = drafted("a", 0, 1)._replace(answer=(1, 2, 3))
    text = spelled(one, lambda tokens: b"".join(halves[t] for t in tokens).decode(errors="replace"))["tokens"]
    assert text == ["caf", "�", "�"]


def test_a_long_answer_is_cut_and_says_so() -> None:
    tokens = tuple([1] * (LONGEST + 3))
    one = drafted("a", 0, 1)._replace(answer=tokens, drafts=(Draft(1, 0, 2), Draft(LONGEST, 0, 2)))
    found = spelled(one, decode)
    assert (len(found["tokens"]), found["cut"], len(found["drafts"])) == (LONGEST, 3, 1)
    assert CONTEXT < LONGEST
