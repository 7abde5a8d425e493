"""Does this machine compute what we say it does?  Asked in seconds, on small random drafts.

A new GPU, driver or build of torch can be wrong without a word: a kernel that ignores a mask, sums that
lose their order.  Two questions find that before a training is paid for: does the fast trainer equal
its oracle in loss and every gradient, and do several ranks learn what one does?
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from speculators.checkpoint.eagle3 import Eagle3Config
from speculators.checkpoint.verifier_weights import VerifierWeights
from speculators.datagen.shards import Document
from speculators.training.architectures import ARCHITECTURES
from speculators.training.objective import Objective, Teaching
from speculators.training.optimiser import Optimiser
from speculators.training.packing import pack
from speculators.training.parallel import spread, whole
from speculators.training.ranks import Ranks
from speculators.training.step import optimiser_step, share_of
from speculators.training.verifier import FrozenVerifier

KIND = "eagle3"
STEPS = 20  # optimiser steps that ranks take together
TEACHING = Teaching(positions=3, step_decay=0.9)
#: Small enough for seconds, large enough for every kernel: grouped heads of 64, several blocks of rows.
SHAPE = Eagle3Config(
    hidden_size=256, intermediate_size=512, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
    rms_norm_eps=1e-5, rope_theta=10000.0, max_position_embeddings=1024, layers=1, aux_layers=(1, 2, 3),
    vocab_size=1024, draft_vocab_size=512,
)  # fmt: skip
ANOTHER = replace(
    SHAPE, layers=2, sliding_window=48, norm_before_fc=False, fc_norm=True, norm_before_residual=True,
    norm_output=True,
)  # fmt: skip
Lengths = Sequence[tuple[int, int]]  # tokens of documents, and of their prompts
#: A fast step runs the rows that are taught, or all of them.
MIXED, TAUGHT = ((37, 12), (200, 60), (150, 140), (61, 3)), ((200, 2), (137, 3))
CASES = {
    "one layer": (SHAPE, MIXED),
    "one layer, every row": (SHAPE, TAUGHT),
    "two layers, window, norms per state": (ANOTHER, MIXED),
}
#: By the dtype of matrix products: how far loss and gradients may be from the oracle's in float32.
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
#: A kernel that refuses, that this torch does not have, or has with other arguments or results.
NO_ANSWER = (RuntimeError, AttributeError, TypeError, ValueError)
#: Of losses and draft after ``STEPS`` steps; sums in another order grow apart.
TOGETHER_BOUND = 1e-3


class Check(NamedTuple):
    """One answer.  ``error`` is relative; infinite where a figure was not finite, or nothing came at all.

    ``cause``: what was raised in place of an answer.
    """

    name: str
    error: float
    bound: float
    cause: str = ""

    @property
    def ok(self) -> bool:
        return self.error <= self.bound

    def document(self) -> dict[str, Any]:
        """For a JSON document, which has no word for infinite."""
        error = self.error if math.isfinite(self.error) else None
        return {**self._asdict(), "error": error, "ok": self.ok}


def fast_against_oracle(device: torch.device) -> Iterator[Check]:
    """The fast objective on ``device`` against the oracle in float32 there, in every dtype.

    With products in half precision the verifier's ends and states are in it too, as in training.
    """
    implementation = ARCHITECTURES[KIND].load()
    assert implementation.oracle is not None
    for label, (shape, lengths) in CASES.items():
        expected = _gradients(_objective(shape, implementation.oracle, TEACHING, device), lengths)
        for dtype, bound in BOUNDS.items():
            name = f"fast path against oracle, {label}, {str(dtype).removeprefix('torch.')}"
            teaching = TEACHING._replace(dtype=None if dtype == torch.float32 else dtype)
            try:
                found = _gradients(_objective(shape, implementation.objective, teaching, device), lengths)
            except NO_ANSWER as error:
                yield failed(name, str(error), bound)
                continue
            distances = [_distance(found[name], tensor) for name, tensor in expected.items()]
            yield Check(name, max(distances), bound)


def learned(ranks: Ranks, parallelism: str, device: torch.device) -> dict[str, Any]:
    """``STEPS`` optimiser steps of all ranks together: losses, and a few numbers that stand for the draft."""
    objective = _objective(SHAPE, ARCHITECTURES[KIND].load().objective, TEACHING, device)
    draft = objective.draft
    objective.draft = spread(draft, parallelism, ranks)
    optimiser, documents = Optimiser(draft, "adamw", 0.01), list(_documents(MIXED + MIXED))
    losses = []
    for step in range(STEPS):
        # More sequences than ranks, of unequal lengths, in another order each time.
        window = [[(step + number) % len(documents)] for number in range(5)]
        share = share_of(window, objective, documents, 0, step, ranks).to(device)
        result, _ = optimiser_step(objective, share, optimiser, 1e-3, 1.0, ranks)
        losses.append(result.loss)
    norms = [whole(tensor).double().norm().item() for tensor in draft.state_dict().values()]
    return {"losses": losses, "norms": norms}


def failed(name: str, cause: str, bound: float = TOGETHER_BOUND) -> Check:
    """A check that came to no figure."""
    return Check(name, math.inf, bound, cause.strip().splitlines()[-1])


def ranks_against_one(alone: dict[str, Any], together: dict[str, Any], name: str) -> Check:
    """What several ranks learned against what one did."""
    pairs = [(a, b) for key in ("losses", "norms") for a, b in zip(together[key], alone[key], strict=True)]
    error = max(abs(a - b) / max(abs(b), 1e-12) if math.isfinite(a) else math.inf for a, b in pairs)
    return Check(name, error, TOGETHER_BOUND)


def _objective(
    shape: Eagle3Config, kind: type[Objective], teaching: Teaching, device: torch.device
) -> Objective:
    """A fresh draft with its verifier, the same numbers on every device and in every dtype of products."""
    torch.manual_seed(0)
    draft = ARCHITECTURES[KIND].load().model(shape)
    with torch.no_grad():
        for parameter in draft.parameters():  # no gain is hidden behind a one
            parameter.copy_(torch.randn(parameter.shape) * 0.05 + (1.0 if parameter.dim() == 1 else 0.0))
    size = (shape.vocab_size, shape.hidden_size)
    embedding, head = (torch.randn(size).bfloat16().float() for _ in range(2))
    head = head / 4  # logits of a few units, as a verifier's are
    ends = VerifierWeights(embedding, torch.ones(shape.hidden_size), shape.rms_norm_eps, head)
    draft_ids = torch.arange(shape.draft_vocab_size) * 2
    verifier = FrozenVerifier.of(ends, draft_ids, teaching.dtype or torch.float32, device)
    return kind(draft.to(device), verifier, teaching)


def _documents(lengths: Lengths) -> Iterator[Document]:
    """Random documents, their states' numbers such that half precision holds them."""
    generator = torch.Generator().manual_seed(1)
    for number, (length, prompt) in enumerate(lengths):
        states = torch.randn(length, len(SHAPE.aux_layers) + 1, SHAPE.hidden_size, generator=generator)
        states = states.bfloat16().float()
        tokens = torch.randint(SHAPE.vocab_size, (length,), generator=generator)
        yield Document(f"random-{number}", "", "train", False, prompt, tokens, states)


def _gradients(objective: Objective, lengths: Lengths) -> dict[str, torch.Tensor]:
    """The loss and every gradient of one packed sequence."""
    embedding = objective.verifier.embedding
    device, sequence = embedding.device, pack(list(_documents(lengths)), embedding.dtype)
    batch = objective.batch(sequence, torch.Generator().manual_seed(0)).to(device)
    weights = objective.weights(torch.tensor(batch.supervised, device=device))
    sums = objective.backward(batch, weights)
    named = {name: parameter.grad.float() for name, parameter in objective.draft.named_parameters()}
    return {"loss": (sums.double() * weights).sum()[None].float(), **named}


def _distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The difference relative to what is expected; infinite where either is not finite."""
    error = ((found - expected).norm() / expected.norm().clamp(min=1e-12)).item()
    return error if math.isfinite(error) else math.inf
