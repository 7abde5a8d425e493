from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from speculators.training.acceptance import Replayed, Tally, pool, summary, tally, walk


def truncated(rows: list[list[bool]]) -> list[list[bool]]:
    """Entries about tokens behind the end are unknown, hence false."""
    size = len(rows)
    return [[hit and row + 2 + k < size for k, hit in enumerate(hits)] for row, hits in enumerate(rows)]


MATRICES = st.integers(1, 4).flatmap(
    lambda steps: st.lists(st.lists(st.booleans(), min_size=steps, max_size=steps), min_size=1, max_size=25)
)


def simulate(matches: list[list[bool]], prompt_tokens: int) -> tuple[int, int, int]:
    """Serving as a state machine over *emitted tokens*: (drafts, accepted, tokens emitted by drafting)."""
    size, emitted, drafts, accepted = len(matches), prompt_tokens + 1, 0, 0  # the prefill's token is free
    while emitted < size:
        last = emitted - 1  # index of the newest known token; its row is the one before it
        drafts += 1
        run = 0
        while run < len(matches[0]) and matches[last - 1][run]:
            run += 1
        accepted += run
        emitted += run + 1
    return drafts, accepted, emitted - prompt_tokens - 1


@given(MATRICES, st.integers(1, 10))
def test_the_walk_equals_serving_simulated_by_emitted_tokens(rows, prompt_tokens) -> None:
    matches = truncated(rows)
    one = tally(matches, prompt_tokens)
    drafts, accepted, _ = simulate(matches, prompt_tokens)
    assert (one.drafts, sum(one.accepted)) == (drafts, accepted)


@given(MATRICES, st.integers(1, 10))
def test_every_generated_token_but_the_first_comes_from_exactly_one_draft(rows, prompt_tokens) -> None:
    matches = truncated(rows)
    one = tally(matches, prompt_tokens)
    drafted = max(0, len(matches) - prompt_tokens - 1)
    # A last draft that matches up to the end leaves no room for the verifier's own token.
    assert one.drafts + sum(one.accepted) - drafted in (0, 1)
    assert list(one.accepted) == sorted(one.accepted, reverse=True)
    assert all(count <= one.drafts for count in one.accepted)


def test_a_perfect_draft_advances_k_plus_one_and_leaves_the_end_undecided() -> None:
    # 1 prompt token, tokens 1..9 generated; K = 3; rows 0, 4, 8: tokens 2-4, 6-8, and row 8 has nothing known
    matches = truncated([[True] * 3 for _ in range(10)])
    assert list(walk([sum(row) for row in matches], 1)) == [(0, 3), (4, 3)]
    assert tally(matches, 1) == Tally(drafts=2, accepted=(2, 2, 2), undecided=0)
    assert tally(truncated([[True] * 3 for _ in range(7)]), 1) == Tally(2, (2, 1, 1), undecided=2)


def test_a_hopeless_draft_makes_one_draft_a_token() -> None:
    one = tally([[False] * 3 for _ in range(10)], 4)
    assert one == Tally(drafts=5, accepted=(0, 0, 0), undecided=0)
    assert one.acceptance_length == 1.0


def test_a_response_of_one_token_drafts_nothing() -> None:
    one = tally([[False] * 2 for _ in range(5)], 4)
    assert (one.drafts, one.acceptance_length, one.per_position) == (0, None, None)


def test_pooling_weighs_drafts_not_documents() -> None:
    pooled = pool([Tally(1, (1, 1), 0), Tally(3, (0, 0), 1)], 2)
    assert pooled == Tally(4, (1, 1), 1)
    assert pooled.acceptance_length == 1.5
    assert pooled.per_position == [0.25, 0.25]


def test_the_summary_shows_figures_with_and_without_looping_documents() -> None:
    replayed = [Replayed("a", True, 8, Tally(2, (2, 2), 0)), Replayed("b", False, 5, Tally(4, (1, 0), 0))]
    figures = summary(replayed, 2)
    assert figures["all"]["acceptance_length"] == 1 + 5 / 6
    assert figures["without_looping"]["acceptance_length"] == 1.25
    assert figures["without_looping"]["documents"] == 1
