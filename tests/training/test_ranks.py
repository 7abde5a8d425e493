"""Several ranks teach what one does: the same loss, gradients, updates and validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speculators.errors import StageError
from speculators.training.architectures import ARCHITECTURES
from speculators.training.asked import Asked
from speculators.training.objective import Batch, Objective, Teaching
from speculators.training.optimiser import Optimiser
from speculators.training.packing import PackedSequence
from speculators.training.parallel import KINDS, part, spread, whole, whole_draft
from speculators.training.ranks import ALONE, Ranks, balanced
from speculators.training.step import optimiser_step, share_of
from speculators.training.ttt import DenseTrainTimeTest, TrainTimeTest
from speculators.training.validation import evaluate, prepare
from tests.models import tiny
from tests.training.processes import together

# Documents of 8 to 22 tokens with 4 to 9 of a prompt: no two ranks have the same number of supervised rows.
DOCUMENTS = [tiny.document(10 + seed % 5 + (seed % 3) * 4, 4 + seed % 6, seed) for seed in range(14)]
WINDOWS = [[[0], [1, 2], [3], [4, 5], [6], [7], [8], [9], [10], [11, 12]], [[13], [2], [0, 4]]]
HELD_OUT = [tiny.document(12 + seed, 4, 100 + seed, split="validation") for seed in range(5)]

COSTS = st.lists(st.integers(1, 50), max_size=24)


@given(COSTS, st.integers(1, 9))
def test_shares_hold_everything_once_and_none_is_a_third_above_the_best(costs, count) -> None:
    shares = balanced(costs, count)
    assert sorted(number for share in shares for number in share) == list(range(len(costs)))
    loads = [sum(costs[number] for number in share) for share in shares]
    largest_possible = sorted(costs, reverse=True)
    pair = sum(largest_possible[count - 1 : count + 1]) if len(costs) > count else 0
    at_least = max([sum(costs) / count, pair, *largest_possible[:1]])  # of the best split there is
    assert max(loads) <= (4 / 3) * at_least + 1e-9


def learn(
    ranks: Ranks, parallelism: str, optimizer: str, dtype: torch.dtype, kind: type = TrainTimeTest
) -> tuple[list[Any], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Two windows, the second with fewer sequences than ranks: losses, draft, and gradients of the second."""
    draft = tiny.draft(dtype=dtype)
    taught = kind(draft, tiny.frozen(dtype), Teaching(3, 0.9))
    return taught_together(ranks, taught, parallelism, optimizer)


def taught_together(
    ranks: Ranks, taught: Objective, parallelism: str, optimizer: str
) -> tuple[list[Any], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    draft = taught.draft
    taught.draft = spread(draft, parallelism, ranks)
    optimiser = Optimiser(draft, optimizer, 0.1)
    figures = []
    for window in WINDOWS:
        share = share_of(window, taught, DOCUMENTS, 0, 0, ranks)
        result, norm = optimiser_step(taught, share, optimiser, 0.01, 1.0, ranks)
        figures.append((result.loss, norm, *result.by_step, result.supervised, result.tokens))
    gradients = {name: whole(parameter.grad) for name, parameter in draft.named_parameters()}
    return figures, {name: whole(tensor) for name, tensor in draft.state_dict().items()}, gradients


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["fp64", "fp32"]
)
def test_eight_ranks_learn_what_one_does(tmp_path: Path, parallelism: str, dtype, tolerance: float) -> None:
    figures, draft, gradients = learn(ALONE, parallelism, "adamw", dtype)
    for found in together(8, tmp_path, learn, parallelism, "adamw", dtype):
        for after, before in zip(found[0], figures):
            assert after == pytest.approx(before, rel=tolerance)
        for name, gradient in gradients.items():
            assert (found[2][name] - gradient).norm() <= tolerance * gradient.norm(), name
        for name, tensor in draft.items():
            assert (found[1][name] - tensor).norm() <= tolerance * tensor.norm(), name


def learn_kind(ranks: Ranks, kind: str) -> list[Any]:
    """In both ways of holding the draft."""
    return [taught_together(ranks, tiny.of_kind(kind, 3), way, "adamw") for way in KINDS]


@pytest.mark.parametrize("kind", sorted(set(ARCHITECTURES) - {"eagle3"}))
def test_every_architecture_is_taught_by_ranks_as_by_one(tmp_path: Path, kind: str) -> None:
    figures, draft, _ = learn_kind(ALONE, kind)[0]
    for ways in together(2, tmp_path, learn_kind, kind):
        for found, tensors, _ in ways:
            assert [row[0] for row in found] == pytest.approx([row[0] for row in figures], rel=1e-12)
            for name, tensor in draft.items():
                assert (tensors[name] - tensor).norm() <= 1e-12 * tensor.norm(), name


def learn_checkpointed(ranks: Ranks) -> list[Any]:
    """In both ways of holding the draft, whose layers are computed again in the backward pass."""
    teaching = Teaching(3, 0.9, checkpointing=True)
    return [
        taught_together(ranks, TrainTimeTest(tiny.draft(), tiny.frozen(), teaching), way, "adamw")
        for way in KINDS
    ]


def test_ranks_that_compute_layers_again_learn_what_one_does_that_keeps_them(tmp_path: Path) -> None:
    figures, draft, gradients = learn(ALONE, "ddp", "adamw", torch.float64)
    for ways in together(2, tmp_path, learn_checkpointed):
        for found, tensors, theirs in ways:
            assert [row[0] for row in found] == pytest.approx([row[0] for row in figures], rel=1e-12)
            for name in draft:
                assert (tensors[name] - draft[name]).norm() <= 1e-12 * draft[name].norm(), name
                assert (theirs[name] - gradients[name]).norm() <= 1e-12 * gradients[name].norm(), name


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_the_oracle_on_ranks_is_the_oracle_alone(tmp_path: Path, parallelism: str) -> None:
    oracle = (parallelism, "adamw", torch.float64, DenseTrainTimeTest)
    figures, draft, _ = learn(ALONE, *oracle)
    for found, tensors, _ in together(3, tmp_path, learn, *oracle):
        assert [row[0] for row in found] == pytest.approx([row[0] for row in figures], rel=1e-12)
        for name, tensor in draft.items():
            assert (tensors[name] - tensor).norm() <= 1e-12 * tensor.norm(), name


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_muon_on_ranks_turns_as_it_does_alone(tmp_path: Path, parallelism: str) -> None:
    """Of a part of a matrix the nearest orthogonal one is another matrix: its parts must be gathered."""
    before = tiny.draft(dtype=torch.float32).state_dict()
    _, draft, _ = learn(ALONE, parallelism, "muon", torch.float32)
    for _, found, _ in together(2, tmp_path, learn, parallelism, "muon", torch.float32):
        for name, tensor in draft.items():
            assert (found[name] - tensor).norm() <= 1e-4 * (tensor - before[name]).norm(), name


def judge(ranks: Ranks, parallelism: str) -> tuple[Any, Any, Any]:
    draft = tiny.draft(dtype=torch.float32)
    taught = tiny.objective(draft, 3, 1.0, torch.float32)
    held_out = prepare(taught.verifier, HELD_OUT, 16)
    taught.draft = spread(draft, parallelism, ranks)
    with whole_draft(taught.draft):
        judged = evaluate(taught, held_out, 3, ranks)
    return judged, ranks.any(ranks.index == 1, False, True), ranks.lead(f"from {ranks.index}")


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_every_rank_comes_to_the_same_verdict(tmp_path: Path, parallelism: str) -> None:
    alone, _, _ = judge(ALONE, parallelism)
    for judged, flags, said in together(3, tmp_path, judge, parallelism):  # five batches: 2, 2 and 1
        assert judged == alone
        assert flags == (True, False, True)
        assert said == "from 0"


def spoil(ranks: Ranks) -> str:
    taught = tiny.objective(tiny.draft(dtype=torch.float32), 3, 1.0, torch.float32)
    taught.draft = spread(taught.draft, "ddp", ranks)
    broken = DOCUMENTS[4]._replace(hidden_states=torch.full_like(DOCUMENTS[4].hidden_states, torch.nan))
    documents = [*DOCUMENTS[:4], broken, *DOCUMENTS[5:]]
    share = share_of(WINDOWS[0], taught, documents, 0, 0, ranks)
    optimiser = Optimiser(taught.draft, "adamw", 0.0)
    with pytest.raises(StageError) as caught:
        optimiser_step(taught, share, optimiser, 0.01, 1.0, ranks)
    return caught.value.message


def test_a_state_that_is_not_finite_is_named_on_every_rank(tmp_path: Path) -> None:
    assert together(3, tmp_path, spoil) == ["the loss is nan on documents doc-4, doc-5"] * 3


class Spoilt(TrainTimeTest):
    """Whose gradient is not a number where ``doc-4`` is learned from, though the loss is: no input of ours
    is known to do that."""

    learning = False

    def backward(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        self.learning = "doc-4" in batch.sequence.ids and bool(weights.any())
        return super().backward(batch, weights)

    def unroll(self, sequence: PackedSequence, asked: Asked) -> list[torch.Tensor]:
        normed = super().unroll(sequence, asked)
        if self.learning:
            normed[0].register_hook(lambda gradient: gradient * torch.nan)
        return normed


def spoil_gradient(ranks: Ranks, parallelism: str) -> tuple[str, bool]:
    draft = tiny.draft(dtype=torch.float32)
    taught = Spoilt(draft, tiny.frozen(torch.float32), Teaching(3))
    taught.draft = spread(draft, parallelism, ranks)
    before = {name: whole(tensor).clone() for name, tensor in draft.state_dict().items()}
    share = share_of(WINDOWS[0], taught, DOCUMENTS, 0, 0, ranks)
    optimiser = Optimiser(taught.draft, "adamw", 0.0)
    with pytest.raises(StageError) as caught:
        optimiser_step(taught, share, optimiser, 0.01, 1.0, ranks)
    same = all(torch.equal(whole(tensor), before[name]) for name, tensor in draft.state_dict().items())
    return caught.value.message, same


def test_a_gradient_that_is_not_finite_is_traced_to_its_sequence(tmp_path: Path) -> None:
    message = "the gradient norm is nan on documents doc-4, doc-5"
    assert spoil_gradient(ALONE, "ddp") == (message, True)
    # Several ranks take turns: beside the sequence stands what the other ran in the same one.
    for parallelism in KINDS:
        (said, same), other = together(2, tmp_path / parallelism, spoil_gradient, parallelism)
        assert (said, same) == other
        assert same
        named = said.partition(" on documents ")[2].split(", ")
        assert {"doc-4", "doc-5"} < set(named)
        assert len(named) <= 4


def halves(ranks: Ranks) -> bool:
    draft = spread(tiny.draft(dtype=torch.float32), "fsdp", ranks)
    tensors = {name: whole(tensor) for name, tensor in draft.state_dict().items()}
    held = draft.state_dict()
    again = all(torch.equal(whole(part(tensor, held[name])), tensor) for name, tensor in tensors.items())
    smaller = sum(tensor.to_local().numel() for tensor in held.values())
    return again and smaller < sum(tensor.numel() for tensor in tensors.values())


def test_a_shard_is_less_than_the_whole_and_leads_back_to_it(tmp_path: Path) -> None:
    assert together(3, tmp_path, halves) == [True] * 3
