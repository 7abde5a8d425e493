"""A full-size step of this project on paper: see ``inside/paper.py``, which counts both systems alike."""

from __future__ import annotations

from collections.abc import Sequence
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._pytree import tree_leaves, tree_map_only

from speculators.checkpoint.eagle3 import Eagle3Config
from speculators.checkpoint.verifier_weights import VerifierWeights
from speculators.models import unroll
from speculators.models.eagle3 import Eagle3Draft
from speculators.models.kernels import CUDA_FLASH
from speculators.training.asked import Asked, ask
from speculators.training.objective import Objective, Teaching
from speculators.training.optimiser import Optimiser
from speculators.training.packing import PackedSequence
from speculators.training.ranks import ALONE
from speculators.training.step import Share, added_up
from speculators.training.step_cost import Rows
from speculators.training.ttt import TrainTimeTest
from speculators.training.verifier import FrozenVerifier
from tests.reference.inside.paper import Figures, account

DEVICE = torch.device("meta")


def packed(shape: Eagle3Config, documents: Sequence[tuple[int, int]]) -> PackedSequence:
    """Documents of (tokens, prompt tokens); only which rows are taught matters, so states are not filled."""
    lengths, prompts = (torch.tensor(column) for column in zip(*documents))
    ends = lengths.cumsum(0)
    places = torch.cat([torch.arange(length) for length in lengths])  # [S]
    states = (len(places), len(shape.aux_layers) + 1, shape.hidden_size)
    return PackedSequence(
        ids=tuple(f"document {number}" for number in range(len(lengths))),
        documents=tuple(zip((ends - lengths).tolist(), ends.tolist())),
        token_ids=torch.zeros(len(places), dtype=torch.int64),
        hidden_states=torch.empty(states, dtype=torch.bfloat16),
        document_ids=torch.repeat_interleave(torch.arange(len(lengths)), lengths),
        positions=places,
        supervised=places >= torch.repeat_interleave(prompts, lengths),
    )


def full_size(
    shape: Eagle3Config,
    documents: Sequence[tuple[int, int]],
    steps: int,
    way: type[Objective] = TrainTimeTest,
    sequences: int = 1,
) -> Figures:
    """The account of one optimiser step on ``sequences`` packs of ``documents``, as a GPU would take it.

    Weights and optimiser in float32, products, frozen tensors and states in bfloat16, CUDA's attention.
    Row sets come from the loader, which runs on real numbers; within the step any question for a
    number raises.  The device is ``meta``: what the step would bring from the CPU has another one, and
    is told as ``arrivals``, and what rests on the CPU all the while is not counted.
    """
    teaching = Teaching(steps, dtype=torch.bfloat16)
    with FakeTensorMode() as fake, patch.object(unroll, "kernel_for", lambda *_: CUDA_FLASH):
        with DEVICE:
            draft = Eagle3Draft(shape)
        verifier = _frozen(shape)
        objective = way(draft, verifier, teaching)
        with unset_fake_temporarily():
            loaded = objective.batch(packed(shape, documents), torch.Generator())
        batch = tree_map_only(torch.Tensor, fake.from_tensor, loaded).to(DEVICE)
        del loaded
        optimiser = Optimiser(draft, "adamw", weight_decay=0.01)

        def step() -> None:
            optimiser.zero_grad()
            added_up(objective, Share.of([batch] * sequences), ALONE)
            torch.nn.utils.clip_grad_norm_(draft.parameters(), 1.0)
            optimiser.step(1e-4)

        held = tree_leaves((list(draft.parameters()), list(draft.buffers()), verifier, batch))
        on_device = [one for one in held if isinstance(one, torch.Tensor) and one.device == DEVICE]
        return account(on_device, optimiser.parts, step)


def rows_of(shape: Eagle3Config, documents: Sequence[tuple[int, int]], steps: int) -> Rows:
    """The sizes of the pack that ``full_size`` runs."""
    asked: Asked = ask(packed(shape, documents), steps)
    tokens, choice = len(asked.plan.positions), asked.plan.choice
    some = (tokens, tokens + steps - 1) if choice is None else (len(choice.rows), len(choice.table))
    return Rows(tokens, some[0], len(asked.taught.opinions), some[1], steps)


def _frozen(shape: Eagle3Config) -> FrozenVerifier:
    """The ends of a verifier whose head is not its embedding, in bfloat16, brought from the CPU."""
    size, dtype = (shape.vocab_size, shape.hidden_size), torch.bfloat16
    ends = VerifierWeights(
        embedding=torch.zeros(size, dtype=dtype),
        final_norm=torch.zeros(shape.hidden_size, dtype=dtype),
        norm_eps=shape.rms_norm_eps,
        head=torch.zeros(size, dtype=dtype),
    )
    return FrozenVerifier.of(ends, torch.arange(shape.draft_vocab_size), dtype, DEVICE)
