from __future__ import annotations

import torch

from speculators.inspection.replay import replay
from speculators.training.acceptance import tally
from speculators.training.packing import pack
from speculators.training.ttt import TrainTimeTest
from speculators.training.validation import match_matrix
from tests.models import tiny


def greedy_drafts(objective: TrainTimeTest, document, row: int, steps: int) -> list[int]:
    """What the draft says from ``row`` when fed its *own* guesses: documents are re-packed with them."""
    said: list[int] = []
    for step in range(steps):
        tokens = torch.cat([document.token_ids[: row + 2], torch.tensor([*said, *[0] * (steps + 2)])])
        states = torch.cat([document.hidden_states[: row + 1], torch.zeros(len(tokens) - row - 1, 4, 16)])
        alone = document._replace(token_ids=tokens, hidden_states=states, prompt_tokens=0)
        said.append(int(objective.propose(pack([alone], torch.float64), step + 1)[row, step]))
    return said


def test_teacher_forced_matches_lead_to_the_same_acceptance_as_drafting_from_own_guesses() -> None:
    objective = tiny.objective(tiny.draft(), 3)
    document = tiny.document(14, 5, seed=3)
    # Make some truths agree with the draft, so that chains of every length occur.
    tokens = document.token_ids.clone()
    for row in (4, 8):
        guesses = greedy_drafts(objective, document._replace(token_ids=tokens), row, 2)
        tokens[row + 2 : row + 4] = torch.tensor(guesses)
    document = document._replace(token_ids=tokens)
    sequence = pack([document], torch.float64)
    matches = match_matrix(objective, sequence, 3, sequence.token_ids)
    for row in range(4, 12):
        truth = tokens[row + 2 : row + 5].tolist()
        said = greedy_drafts(objective, document, row, 3)[: len(truth)]
        leading = next((k for k, (a, b) in enumerate(zip(said, truth)) if a != b), len(truth))
        hits = matches[row].tolist()
        assert next((k for k, hit in enumerate(hits) if not hit), 3) == leading
    assert matches[4, :2].all()
    (one,) = replay(objective, [document], 3)
    assert one.replayed.tally == tally(matches.tolist(), 5)
    assert one.replayed.tally.accepted[1] >= 1
