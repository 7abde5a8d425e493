"""Row sets against what they mean, for drawn documents."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speculators.training.asked import ask
from speculators.training.packing import PackedSequence
from speculators.training.rows import supervised_rows
from tests.models import tiny

STEPS = 3


def rows_that_guess(sequence: PackedSequence, steps: int) -> dict[tuple[int, int], int]:
    """(step, row) -> token, by looking at each row alone."""
    found = {}
    for start, end in sequence.documents:
        for row in range(start, end):
            for step in range(steps):
                token = row + 2 + step
                if token < end and sequence.supervised[token]:
                    found[step, row] = token
    return found


@settings(max_examples=50, deadline=None)
@given(tiny.sequences(), st.integers(1, 7))
def test_row_sets_are_what_they_mean(sequence: PackedSequence, steps: int) -> None:
    guesses = rows_that_guess(sequence, steps)
    plan, taught = ask(sequence, steps)
    size = len(sequence.token_ids)
    rows = torch.arange(size) if plan.choice is None else plan.choice.rows
    wanted = sorted({row for _, row in guesses})
    assert rows.tolist() in (wanted, list(range(size)))

    tokens = (taught.opinions + 1).tolist()
    assert tokens == sorted(set(guesses.values()))
    counted = taught.counted.nonzero().tolist()
    assert {(step, int(rows[taught.places[step, one]])): tokens[one] for step, one in counted} == guesses
    assert (taught.places[taught.counted == 0] == 0).all()


@settings(max_examples=50, deadline=None)
@given(tiny.sequences(), st.integers(1, 5))
def test_runs_are_consecutive_rows_with_all_they_may_see(sequence: PackedSequence, steps: int) -> None:
    plan, _ = ask(sequence, steps)
    rows = range(len(sequence.token_ids)) if plan.choice is None else plan.choice.rows.tolist()
    covered = []
    for (first, end), (key_first, key_end) in plan.asked.runs:
        owner = sequence.document_ids[rows[first]]
        assert (key_first, key_end) == (sequence.documents[owner][0], rows[end - 1] + 1)
        assert list(rows[first:end]) == list(range(key_end - (end - first), key_end))
        assert key_end <= sequence.documents[owner][1]
        covered += range(first, end)
    assert covered == list(range(len(rows)))
    assert [run.keys for run in plan.everything.runs] == list(sequence.documents)


@settings(max_examples=50, deadline=None)
@given(tiny.sequences(), st.integers(1, 5))
def test_each_asked_row_finds_the_token_it_reads(sequence: PackedSequence, steps: int) -> None:
    plan, _ = ask(sequence, steps, dense_from=1.1)
    if plan.choice is None:
        return
    read = plan.read[plan.choice.table[plan.choice.places]]  # [K, N]
    expected = plan.choice.rows + 1 + torch.arange(steps)[:, None]
    assert torch.equal(read, expected.clamp(max=len(sequence.token_ids) - 1))


def test_from_a_certain_share_on_all_rows_are_asked() -> None:
    documents = [tiny.document(40, prompt, seed) for seed, prompt in enumerate((3, 3, 36))]
    mostly = tiny.packed(documents[:2])
    assert ask(mostly, STEPS).plan.choice is None
    assert ask(mostly, STEPS, dense_from=1.1).plan.choice is not None
    assert ask(tiny.packed(documents), STEPS).plan.choice is not None


def test_a_short_last_turn_asks_for_few_rows() -> None:
    plan, taught = ask(tiny.packed([tiny.document(200, 190, 0)]), STEPS)
    assert plan.choice.rows.tolist() == list(range(190 - 2 - (STEPS - 1), 200 - 2))
    assert len(taught.opinions) == len(supervised_rows(tiny.packed([tiny.document(200, 190, 0)]), 0)) == 10
