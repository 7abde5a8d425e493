from __future__ import annotations

import json
from pathlib import Path
from weakref import WeakSet

import pytest
import torch
from safetensors.torch import load_file

from speculators.errors import StageError
from speculators.stages.training import Data, baselines
from speculators.training import packing, prefetch, step
from speculators.training.baselines import bigram_matches, bigram_successors
from speculators.training.files import DRAFT_NAME, METRICS_NAME
from speculators.training.loop import TrainingOptions, train, validation_line
from speculators.training.optimiser import Optimiser
from speculators.training.packing import Fitted
from speculators.training.prefetch import Prefetch
from speculators.training.ranks import ALONE
from speculators.training.resume import Checkpoints
from speculators.training.step import Share, backward, optimiser_step, share_of
from speculators.training.ttt import TrainTimeTest
from speculators.training.validation import evaluate, judge, prepare, replayed
from tests.models import tiny

OPTIONS = TrainingOptions(
    sequence_length=32,
    sequences_per_step=2,
    epochs=6,
    learning_rate=1e-2,
    weight_decay=0.01,
    warmup_fraction=0.1,
    gradient_clip=1.0,
    step_decay=0.9,
    ttt_steps=3,
    speculative_tokens=3,
    seed=0,
)
DOCUMENTS = [tiny.document(10 + seed % 5, 4, seed) for seed in range(12)]
HELD_OUT = [tiny.document(14, 4, 100 + seed, split="validation", looping=seed == 0) for seed in range(3)]


def objective(model=None) -> TrainTimeTest:
    model = model or tiny.draft(dtype=torch.float32)
    return tiny.objective(model, OPTIONS.ttt_steps, OPTIONS.step_decay, next(model.parameters()).dtype)


def run(folder: Path, options: TrainingOptions = OPTIONS):
    folder.mkdir()
    lines: list[str] = []
    taught = objective()
    held_out = prepare(taught.verifier, HELD_OUT, 32)
    trained = train(taught, DOCUMENTS, held_out, options, folder, Checkpoints(folder / "work"), lines.append)
    metrics = [json.loads(line) for line in (folder / METRICS_NAME).read_text().splitlines()]
    return trained, metrics, lines


def test_training_lowers_the_loss_and_repeats_bit_for_bit(tmp_path: Path) -> None:
    first, metrics, lines = run(tmp_path / "a")
    second, _, _ = run(tmp_path / "b")
    losses = [row["loss"] for row in metrics if row["kind"] == "step"]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    assert (tmp_path / "a" / METRICS_NAME).read_bytes() == (tmp_path / "b" / METRICS_NAME).read_bytes()
    assert (tmp_path / "a" / DRAFT_NAME).read_bytes() == (tmp_path / "b" / DRAFT_NAME).read_bytes()
    assert first.course == second.course
    assert first.optimiser_steps == len(losses)
    assert first.tokens == OPTIONS.epochs * sum(len(document.token_ids) for document in DOCUMENTS)
    assert lines[0].startswith("dry step on 31 tokens, ")
    said = next(line for line in lines if not line.startswith("dry step"))
    assert "tokens/s" in said
    assert sum(line.startswith("epoch") for line in lines) == OPTIONS.epochs


def test_the_epoch_with_the_longest_replayed_acceptance_is_kept(tmp_path: Path) -> None:
    trained, metrics, _ = run(tmp_path / "run")
    epochs = [row for row in metrics if row["kind"] == "epoch"]
    lengths = [row["validation"]["acceptance_length"] for row in epochs]
    best = lengths.index(max(lengths))
    assert trained.course.best_epoch == 1 + best
    assert trained.course.best == epochs[best]["validation"]
    kept = tiny.draft(dtype=torch.float32)
    kept.load_state_dict(load_file(tmp_path / "run" / DRAFT_NAME))
    taught = objective(kept)
    again = evaluate(taught, prepare(taught.verifier, HELD_OUT, 32), OPTIONS.ttt_steps)
    assert again.figures == trained.course.best
    assert again.counts == trained.course.best_counts


def test_a_row_weighs_the_same_however_documents_are_packed() -> None:
    def gradient(*groups) -> torch.Tensor:
        taught = objective(tiny.draft())
        backward(taught, Share.of(tiny.batches(taught, *groups)))
        return torch.cat([parameter.grad.flatten() for parameter in taught.draft.parameters()])

    together = gradient(DOCUMENTS[:3])
    split = gradient(DOCUMENTS[:1], DOCUMENTS[1:3])
    torch.testing.assert_close(together, split)


@pytest.mark.parametrize(("works_ahead", "most"), [(False, 1), (True, 3)], ids=["cpu", "ahead"])
def test_a_window_holds_the_states_of_few_sequences_however_many_it_has(
    monkeypatch: pytest.MonkeyPatch, works_ahead: bool, most: int
) -> None:
    """Three: one at work, one that waits, and the one before, until a thread lets go of it."""
    held, filled, counts = WeakSet(), packing.filled, []

    def counted(*arguments):
        sequence = filled(*arguments)
        held.add(sequence.hidden_states)
        counts.append(len(held))
        return sequence

    monkeypatch.setattr(step, "filled", counted)
    monkeypatch.setattr(prefetch, "works_ahead", lambda device: works_ahead)
    taught = objective()
    window = [[number] for number in range(len(DOCUMENTS))]
    optimiser = Optimiser(taught.draft, "adamw", 0.0)
    with Prefetch(lambda number: share_of(window, taught, DOCUMENTS, 0, 0), 1, torch.device("cpu")) as shares:
        optimiser_step(taught, shares.take(0), optimiser, 1e-3, 1.0)
    assert len(counts) == len(window)
    assert max(counts) <= most


def test_the_window_loss_is_the_decayed_sum_of_its_steps() -> None:
    taught = objective(tiny.draft())
    result = backward(taught, Share.of(tiny.batches(taught, DOCUMENTS[:3])))
    assert result.loss == pytest.approx(sum(0.9**step * value for step, value in enumerate(result.by_step)))
    assert result.tokens == sum(len(document.token_ids) for document in DOCUMENTS[:3])


def test_a_state_that_is_not_finite_is_named_with_the_documents_it_was_packed_with() -> None:
    broken = DOCUMENTS[1]._replace(hidden_states=torch.full_like(DOCUMENTS[1].hidden_states, torch.nan))
    taught = objective(tiny.draft())
    window = tiny.batches(taught, DOCUMENTS[2:4], [DOCUMENTS[0], broken], DOCUMENTS[4:5])
    with pytest.raises(StageError, match=r"documents doc-0, doc-1$"):
        backward(taught, Share.of(window))


def test_without_validation_documents_the_last_epoch_is_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "work")
    trained = train(objective(), DOCUMENTS, [], OPTIONS, tmp_path, checkpoints, lambda _: None)
    assert (trained.course.best_epoch, trained.course.best) == (OPTIONS.epochs, None)


def test_a_token_outside_the_draft_vocabulary_is_a_miss() -> None:
    taught = objective()
    verifier = taught.verifier
    (batch,) = prepare(verifier, HELD_OUT[:1], 32)
    outside = torch.ones(tiny.CONFIG.vocab_size, dtype=torch.bool)
    outside[verifier.draft_ids] = False
    unsayable = outside[batch.truth.clamp(min=0)] & (batch.truth >= 0)
    assert unsayable.any()
    everything = batch._replace(truth=torch.where(unsayable, batch.truth, -1))
    matches = replayed(taught, everything, 3)
    assert not matches.any()


def test_held_out_answers_of_one_token_leave_nothing_to_draft_and_that_is_said() -> None:
    taught, said = objective(), list[str]()
    held_out = [tiny.document(5, 4, 1, split="validation")]  # the only generated token comes with the prompt
    data = Data(Fitted(DOCUMENTS, 0, 0, 0), Fitted(held_out, 0, 0, 0))
    batches = prepare(taught.verifier, held_out, 32)
    found = baselines(taught, data, batches, 3, "untrained", said.append, ALONE)
    assert [one.figures["acceptance_length"] for one in found.values()] == [None, None]
    assert said == [
        "baseline bigram: nothing could be drafted",
        "baseline untrained: nothing could be drafted",
    ]
    judged = evaluate(taught, batches, 3).figures
    assert (
        validation_line(1, 2, judged, None, False)
        == "epoch 1/2: nothing could be drafted, validation documents: 1"
    )


def test_a_bigram_table_knows_the_commonest_follower_of_generated_tokens() -> None:
    tokens = torch.tensor([9, 1, 2, 1, 2, 1, 3, 9, 9])
    document = tiny.document(9, 1, 0)._replace(token_ids=tokens)
    successors = bigram_successors([document], 50)
    assert successors[[1, 2, 3]].tolist() == [2, 1, 9]
    assert successors[0] == -1
    verifier = tiny.frozen(torch.float32)
    (batch,) = prepare(verifier, [document], 32)
    batch = batch._replace(truth=tokens)
    figures = judge([batch], bigram_matches(successors, [batch], 2), 2).figures
    # rows: 9>1 free; 1>2 hit, 2>1 hit | next row reads 1: says 2, true 1>2 ... until the chain breaks at 3
    assert figures["drafts"] >= 3
    assert 1 < figures["acceptance_length"] < 3
