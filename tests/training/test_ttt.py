"""Train-time-test against an independent simulation of how vLLM drafts, token by token."""

from __future__ import annotations

import pytest
import torch

from speculators.errors import StageError
from speculators.models.eagle3 import Eagle3Draft
from speculators.training.objective import Teaching
from speculators.training.packing import pack
from speculators.training.rows import supervised_rows, target_tokens
from speculators.training.ttt import DenseTrainTimeTest, TrainTimeTest
from tests.models import tiny
from tests.models.served import ServedDraft

STEPS = 4
SHAPES = {
    "default": {},
    "norm before residual, norm output": {"norm_before_residual": True, "norm_output": True},
    "one norm for each aux state": {"norm_before_fc": False, "fc_norm": True},
    "no norm before fc": {"norm_before_fc": False},
    "two layers": {"layers": 2, "norm_output": True},
    "three layers": {"layers": 3, "norm_before_residual": True},
    "one key-value head": {"num_key_value_heads": 1},
    "a sliding window": {"sliding_window": 5},
    "two layers with a sliding window": {"sliding_window": 5, "layers": 2},
}


@torch.no_grad()
def serve(model: Eagle3Draft, verifier, document, row: int) -> list[torch.Tensor]:
    """The logits of each of STEPS drafts from ``row``, true tokens fed; as many as the document knows."""
    served = ServedDraft(model.config, dict(model.state_dict()))
    aux = document.hidden_states[:, :-1].double().flatten(1)
    tokens = document.token_ids
    for position in range(row + 1):  # prefill: rows with the verifier's own states
        state, normed = served.feed(
            served.combine(aux[position]), verifier.embedding[tokens[position + 1]], position
        )
    logits = [verifier.draft_head @ normed]
    for step in range(1, min(STEPS, len(tokens) - row - 2)):  # then its own states
        state, normed = served.feed(state, verifier.embedding[tokens[row + 1 + step]], row + step)
        logits.append(verifier.draft_head @ normed)
    return logits


@pytest.fixture(autouse=True)
def exact():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


WAYS = {"fast": TrainTimeTest, "dense": DenseTrainTimeTest}


def guessing_states(way: type[TrainTimeTest], model: Eagle3Draft, documents) -> list[torch.Tensor]:
    """The states that guesses are made from, [M, H] for each step, tokens ascending."""
    objective = way(model, tiny.frozen(), Teaching(STEPS))
    batch = objective.batch(pack(documents, torch.float64), torch.Generator())
    taught = batch.rows.taught
    normed = objective.unroll(batch.sequence, batch.rows)
    return [one[place[count > 0]] for one, place, count in zip(normed, taught.places, taught.counted)]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_train_time_test_equals_drafting_token_by_token(changes, way) -> None:
    model, verifier = tiny.draft(tiny.config(**changes)), tiny.frozen()
    documents = [tiny.document(9, 4, seed=1), tiny.document(7, 3, seed=2)]
    sequence = pack(documents, torch.float64)
    served: dict[tuple[int, int], list[torch.Tensor]] = {}
    asked = 0
    for step, states in enumerate(guessing_states(way, model, documents)):
        for row, state in zip(supervised_rows(sequence, step).tolist(), states, strict=True):
            owner = int(sequence.document_ids[row])
            local = row - sequence.documents[owner][0]
            if (owner, local) not in served:
                served[owner, local] = serve(model, verifier, documents[owner], local)
            logits = verifier.draft_head @ state
            torch.testing.assert_close(logits, served[owner, local][step], rtol=1e-9, atol=1e-9)
            asked += 1
    assert asked == sum(len(supervised_rows(sequence, step)) for step in range(STEPS)) > 20


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_documents_do_not_see_each_other(way) -> None:
    model = tiny.draft(tiny.config(layers=2))
    documents = [tiny.document(8, 3, seed=1), tiny.document(11, 5, seed=2), tiny.document(6, 2, seed=3)]
    alone = [guessing_states(way, model, [one]) for one in documents]
    for step, packed in enumerate(guessing_states(way, model, documents)):
        torch.testing.assert_close(packed, torch.cat([one[step] for one in alone]))


def test_supervised_rows_guess_generated_tokens_of_their_own_document() -> None:
    # tokens 0..6 and 7..11; generation starts at 4 and at 7 + 1
    sequence = pack([tiny.document(7, 4, seed=1), tiny.document(5, 1, seed=2)])
    assert supervised_rows(sequence, 0).tolist() == [2, 3, 4, 7, 8, 9]  # tokens 4, 5, 6, then 9, 10, 11
    assert supervised_rows(sequence, 2).tolist() == [0, 1, 2, 7]
    assert supervised_rows(sequence, 5).tolist() == []


def test_a_document_that_is_over_before_the_step_teaches_nothing_there() -> None:
    objective = tiny.objective(tiny.draft(), STEPS)
    (batch,) = tiny.batches(objective, [tiny.document(3, 1, seed=1)])
    assert batch.supervised == (1, 0, 0, 0)
    sums = objective.backward(batch, objective.weights(torch.tensor(batch.supervised)))
    assert (sums > 0).tolist() == [True, False, False, False]


def test_opinions_are_the_verifier_s_on_the_guessed_token() -> None:
    objective = tiny.objective(tiny.draft(), STEPS)
    verifier = objective.verifier
    (batch,) = tiny.batches(objective, [tiny.document(9, 3, seed=4), tiny.document(8, 2, seed=5)])
    sequence = batch.sequence
    last = sequence.hidden_states[:, -1]
    ends = verifier.ends
    normed = last / (last.square().mean(-1, keepdim=True) + ends.norm_eps).sqrt() * ends.final_norm
    logits = normed @ ends.head.T  # [S, V]
    torch.testing.assert_close(verifier.draft_logits(last), logits[:, verifier.draft_ids])
    tokens = target_tokens(verifier, sequence)
    assert (tokens[~sequence.supervised] == -1).all()
    opinions = batch.rows.taught.opinions
    assert (tokens[opinions + 1] == logits[opinions].argmax(-1)).all()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_proposals_are_the_greedy_guesses_of_supervised_rows(way) -> None:
    model, verifier = tiny.draft(), tiny.frozen()
    documents = [tiny.document(9, 4, seed=1), tiny.document(7, 3, seed=2)]
    sequence = pack(documents, torch.float64)
    proposed = way(model, verifier, Teaching(1)).propose(sequence, STEPS)
    for step, states in enumerate(guessing_states(way, model, documents)):
        rows = supervised_rows(sequence, step)
        greedy = verifier.draft_ids[(states @ verifier.draft_head.T).argmax(-1)]
        assert proposed[rows, step].tolist() == greedy.tolist()
        assert (proposed[:, step] >= 0).sum() == len(rows)


def test_a_window_that_the_drafted_tokens_alone_would_fill_is_refused() -> None:
    with pytest.raises(StageError, match="sliding window of 4 tokens"):
        TrainTimeTest(tiny.draft(tiny.config(sliding_window=4)), tiny.frozen(), Teaching(4))
    practised = TrainTimeTest(tiny.draft(tiny.config(sliding_window=4)), tiny.frozen(), Teaching(2))
    sequence = pack([tiny.document(9, 4, seed=1)], torch.float64)
    assert practised.propose(sequence, 3).max() >= 0
    with pytest.raises(StageError, match="filled by 4 drafted"):
        practised.propose(sequence, 4)
