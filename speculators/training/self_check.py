"""Does this machine compute what we say it does?  Asked in seconds, on small random drafts.

A new GPU, driver or build of torch can be wrong without a word: a kernel that ignores a mask, sums that
lose their order.  Two questions find that before a training is paid for: does the fast trainer equal
its oracle in loss and every gradient, and do several ranks learn what one does?
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from speculators.checkpoint.eagle3 import Eagle3Config
from speculators.checkpoint.verifier_weights import VerifierWeights
from speculators.datagen.shards import Document
from speculators.training.architectures import ARCHITECTURES
from speculators.training.loop import DTYPES
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
#: Small enough for seconds, large enough for kernels: grouped heads, several blocks of rows.
#: Flash attention has a kernel for each size of heads; here are the two that most verifiers have, 64 and 128.
SHAPE = Eagle3Config(
    hidden_size=256, intermediate_size=512, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
    rms_norm_eps=1e-5, rope_theta=10000.0, max_position_embeddings=1024, layers=1, aux_layers=(1, 2, 3),
    vocab_size=1024, draft_vocab_size=512,
)  # fmt: skip
ANOTHER = replace(
    SHAPE, num_attention_heads=2, num_key_value_heads=1, head_dim=128, layers=2, sliding_window=48,
    norm_before_fc=False, fc_norm=True, norm_before_residual=True, norm_output=True,
)  # fmt: skip
Lengths = Sequence[tuple[int, int]]  # tokens of documents, and of their prompts
#: A fast step runs the rows that are taught, or all of them.
MIXED, TAUGHT = ((37, 12), (200, 60), (150, 140), (61, 3)), ((200, 2), (137, 3))
CASES = {
    "one layer": (SHAPE, MIXED),
    "one layer, every row": (SHAPE, TAUGHT),
    "two layers, window, norms per state": (ANOTHER, MIXED),
}
#: By the recipe's ``training.precision``: how far loss and gradients may be from the oracle's in float32.
BOUNDS = {"float32": 1e-4, "bfloat16": 5e-2}
#: A kernel that refuses or faults, that this torch does not have, or has with other arguments or results.
NO_ANSWER = (RuntimeError, AttributeError, TypeError, ValueError)
#: Of losses, gradients and draft over ``STEPS`` steps; sums in another order grow apart.
TOGETHER_BOUND = 1e-3
#: Where a traceback says what was raised: CUDA's errors go on with advice for programmers.
RAISED = re.compile(r"[\w.]*(Error|Exception)\b")


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


def read_check(document: dict[str, Any]) -> Check:
    """The check of which ``document`` was made."""
    error = math.inf if document["error"] is None else document["error"]
    return Check(document["name"], error, document["bound"], document["cause"])


def fast_names(precision: str) -> dict[str, str]:
    """What the check of each of ``CASES`` is called."""
    return {case: f"fast path against oracle, {case}, {precision}" for case in CASES}


def fast_against_oracle(precision: str, device: torch.device) -> Iterator[Check]:
    """The fast objective on ``device``, in one of ``BOUNDS``, against the oracle in float32 there.

    With products in half precision the verifier's ends and states are in it too, as in training.
    """
    bound, dtype = BOUNDS[precision], DTYPES[precision]
    teaching = TEACHING._replace(dtype=None if dtype == torch.float32 else dtype)
    for case, name in fast_names(precision).items():
        try:
            error = _fast_error(*CASES[case], teaching, device)
        except NO_ANSWER as refusal:
            yield failed(name, str(refusal), bound)
            continue
        yield Check(name, error, bound)


def _fast_error(shape: Eagle3Config, lengths: Lengths, teaching: Teaching, device: torch.device) -> float:
    """How far loss and gradients of the fast objective are from the oracle's, at the most.

    Read here as numbers: only then a GPU has said whether its kernels went through.
    """
    implementation = ARCHITECTURES[KIND].load()
    assert implementation.oracle is not None
    expected = _gradients(_objective(shape, implementation.oracle, TEACHING, device), lengths)
    found = _gradients(_objective(shape, implementation.objective, teaching, device), lengths)
    return max(_distance(found[name], tensor) for name, tensor in expected.items())


def learned(ranks: Ranks, parallelism: str, device: torch.device) -> dict[str, Any]:
    """``STEPS`` optimiser steps of all ranks together: each one's loss and gradient norm, and the draft's.

    The norms of gradients are in it because AdamW, and clipping before it, learn the same from gradients of
    any scale.
    """
    objective = _objective(SHAPE, ARCHITECTURES[KIND].load().objective, TEACHING, device)
    draft = objective.draft
    objective.draft = spread(draft, parallelism, ranks)
    optimiser, documents = Optimiser(draft, "adamw", 0.01), list(_documents(MIXED + MIXED))
    losses, gradients = [], []
    for step in range(STEPS):
        # More sequences than ranks, of unequal lengths, in another order each time.
        window = [[(step + number) % len(documents)] for number in range(5)]
        share = share_of(window, objective, documents, 0, step, ranks).to(device)
        result, norm = optimiser_step(objective, share, optimiser, 1e-3, 1.0, ranks)
        losses.append(result.loss)
        gradients.append(norm)
    norms = [whole(tensor).double().norm().item() for tensor in draft.state_dict().values()]
    return {"losses": losses, "gradients": gradients, "norms": norms}


def failed(name: str, cause: str, bound: float = TOGETHER_BOUND) -> Check:
    """A check that came to no figure; of a traceback the line that says what was raised."""
    lines = cause.strip().splitlines() or ["no word of the cause"]
    return Check(name, math.inf, bound, next(filter(RAISED.match, lines), lines[0]))


def ranks_against_one(alone: dict[str, Any], together: dict[str, Any], name: str) -> Check:
    """What several ranks learned against what one did."""
    pairs = [(a, b) for key, own in alone.items() for a, b in zip(together[key], own, strict=True)]
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
