from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from speculators.datagen.near_duplicates import THRESHOLD, NearDuplicates, shingles, similarity

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), min_size=1, max_size=14).map(" ".join)


def test_case_and_punctuation_do_not_make_a_text_new() -> None:
    index = NearDuplicates()
    index.add("first", "Why are there two high tides a day, and not one?")
    assert index.similar("why are there TWO high tides a day - and not one") == "first"


def test_one_changed_word_at_the_end_is_a_near_duplicate() -> None:
    index = NearDuplicates()
    index.add("first", "List five facts about the history of the steam engine in Wales")
    assert index.similar("List five facts about the history of the steam engine in Cornwall") == "first"


def test_a_shared_opening_alone_is_not() -> None:
    index = NearDuplicates()
    index.add("first", "Write a short story about a lighthouse keeper who fears the sea")
    assert index.similar("Write a short story about two rival bakers in a mountain village") is None


def test_short_texts_match_only_as_a_whole() -> None:
    index = NearDuplicates()
    index.add("first", "What is love?")
    assert index.similar("What is love") == "first"
    assert index.similar("What is hate?") is None


def test_a_text_without_words_resembles_nothing() -> None:
    index = NearDuplicates()
    index.add("first", "?!")
    assert index.similar("?!") is None


@given(st.lists(WORDS, max_size=12), WORDS)
def test_the_index_finds_what_comparing_with_every_text_finds(texts: list[str], wanted: str) -> None:
    index = NearDuplicates(expected=texts[::2])
    for number, text in enumerate(texts):
        index.add(str(number), text)
    scores = [similarity(shingles(text), shingles(wanted)) for text in texts]
    best = max(scores, default=0.0)
    expected = str(scores.index(best)) if best >= THRESHOLD else None
    assert index.similar(wanted) == expected


def test_posting_lists_stay_short_when_all_texts_share_their_opening() -> None:
    texts = [
        f"please write me a long and careful essay about number{n} and place{n} now" for n in range(2000)
    ]
    index = NearDuplicates(threshold=0.9, expected=texts)
    for number, text in enumerate(texts):
        index.add(str(number), text)
    assert max(len(posting) for posting in index._postings.values()) == 1
