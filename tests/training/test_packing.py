from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from speculators.training.packing import fit, pack, plan_epoch
from tests.models import tiny

LENGTHS = st.lists(st.integers(1, 40), max_size=60)


@given(LENGTHS, st.integers(40, 100), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_holds_every_document_once_and_no_sequence_overflows(lengths, limit, seed, epoch) -> None:
    plan = plan_epoch(lengths, limit, seed, epoch)
    assert sorted(number for sequence in plan for number in sequence) == list(range(len(lengths)))
    assert all(0 < sum(lengths[number] for number in sequence) <= limit for sequence in plan)


@given(LENGTHS, st.integers(40, 100), st.integers(0, 5), st.integers(0, 5))
def test_the_order_depends_on_seed_and_epoch_only(lengths, limit, seed, epoch) -> None:
    assert plan_epoch(lengths, limit, seed, epoch) == plan_epoch(list(lengths), limit, seed, epoch)


def test_epochs_and_seeds_differ_in_order() -> None:
    plans = [plan_epoch([1] * 50, 100, seed, epoch) for seed in range(2) for epoch in range(2)]
    assert len({tuple(plan[0]) for plan in plans}) == 4


def test_without_a_seed_the_order_is_kept() -> None:
    assert plan_epoch([5, 5, 5, 9], 10, seed=None) == [[0, 1], [2], [3]]


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 30)), max_size=20), st.integers(2, 20))
def test_fitting_counts_what_it_cuts_and_what_it_leaves_out(shapes, limit) -> None:
    documents = [
        tiny.document(length, min(prompt, length), seed) for seed, (length, prompt) in enumerate(shapes)
    ]
    fitted = fit(documents, limit)
    lengths = [len(document.token_ids) for document in documents]
    assert fitted.cut == sum(length > limit for length in lengths)
    assert fitted.lost_tokens == sum(max(0, length - limit) for length in lengths)
    assert len(fitted.documents) + fitted.unsupervised == len(documents)
    for kept in fitted.documents:
        original = documents[int(kept.id.removeprefix("doc-"))]
        assert torch.equal(kept.token_ids, original.token_ids[:limit])
        assert torch.equal(kept.hidden_states, original.hidden_states[:limit])
        assert max(kept.prompt_tokens, 2) < len(kept.token_ids) <= limit


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=1, max_size=8))
def test_packing_loses_nothing_and_restarts_positions(shapes) -> None:
    documents = [tiny.document(length, prompt, seed) for seed, (length, prompt) in enumerate(shapes)]
    sequence = pack(documents, torch.float32)
    assert sequence.documents[0][0] == 0
    for number, (document, (start, end)) in enumerate(zip(documents, sequence.documents)):
        assert torch.equal(sequence.token_ids[start:end], document.token_ids)
        assert torch.equal(sequence.hidden_states[start:end], document.hidden_states)
        assert sequence.positions[start:end].tolist() == list(range(end - start))
        assert set(sequence.document_ids[start:end].tolist()) == {number}
        generated = [place >= document.prompt_tokens for place in range(end - start)]
        assert sequence.supervised[start:end].tolist() == generated
    assert sequence.documents[-1][1] == len(sequence.token_ids) == sum(length for length, _ in shapes)
