from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from speculators.inspection.replay import Replayed, Tally, match_matrix, pool, replay, summary, tally, walk
from speculators.training.packing import pack
from speculators.training.ttt import FrozenVerifier, draft_steps
from tests.models import tiny


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


def greedy_drafts(model, verifier: FrozenVerifier, document, row: int, steps: int) -> list[int]:
    """What the draft says from ``row`` when fed its *own* guesses: documents are re-packed with them."""
    said: list[int] = []
    for step in range(steps):
        tokens = torch.cat([document.token_ids[: row + 2], torch.tensor([*said, *[0] * (steps + 2)])])
        states = torch.cat([document.hidden_states[: row + 1], torch.zeros(len(tokens) - row - 1, 4, 16)])
        alone = document._replace(token_ids=tokens, hidden_states=states, prompt_tokens=0)
        for made in draft_steps(model, verifier, pack([alone], torch.float64), step + 1):
            place = (made.rows == row).nonzero().item()
            guess = verifier.draft_ids[made.logits[place].argmax()].item()
        said.append(int(guess))
    return said


def test_teacher_forced_matches_lead_to_the_same_acceptance_as_drafting_from_own_guesses() -> None:
    model, verifier = tiny.draft(), tiny.frozen()
    document = tiny.document(14, 5, seed=3)
    # Make some truths agree with the draft, so that chains of every length occur.
    tokens = document.token_ids.clone()
    for row in (4, 8):
        guesses = greedy_drafts(model, verifier, document._replace(token_ids=tokens), row, 2)
        tokens[row + 2 : row + 4] = torch.tensor(guesses)
    document = document._replace(token_ids=tokens)
    sequence = pack([document], torch.float64)
    matches = match_matrix(model, verifier, sequence, 3, sequence.token_ids)
    for row in range(4, 12):
        truth = tokens[row + 2 : row + 5].tolist()
        said = greedy_drafts(model, verifier, document, row, 3)[: len(truth)]
        leading = next((k for k, (a, b) in enumerate(zip(said, truth)) if a != b), len(truth))
        hits = matches[row].tolist()
        assert next((k for k, hit in enumerate(hits) if not hit), 3) == leading
    assert matches[4, :2].all()
    (one,) = replay(model, verifier, [document], 3)
    assert one.tally == tally(matches.tolist(), 5)
    assert one.tally.accepted[1] >= 1
