"""The cases on which both systems must agree: every norm flag, unroll length and vocabulary."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import NamedTuple

import torch

from speculators.checkpoint.eagle3 import Eagle3Config
from speculators.models.eagle3 import Eagle3Draft
from speculators.training.packing import PackedSequence
from tests.reference.inside.case import Case

SHAPE = Eagle3Config(
    hidden_size=24,
    intermediate_size=40,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=8,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    max_position_embeddings=256,
    layers=1,
    aux_layers=(1, 2, 4),
    vocab_size=90,
    draft_vocab_size=41,
)
LONGEST_UNROLL = 5
#: (tokens, prompt tokens).  Prompts are longer than the unroll: what the reference does where they are
#: not is a difference of its own (``test_differences``).  One document is a prompt alone.
DOCUMENTS = ((23, 9), (14, 14), (31, 6), (17, 12))
STEP_DECAY = 0.8


class Agreement(NamedTuple):
    """One case by what is special about it."""

    norm_before_residual: bool
    aux_norm: str | None  # the flag that is set, if one is
    norm_output: bool
    steps: int
    full_vocabulary: bool
    layers: int
    attention: str  # of the reference, which knows several

    @property
    def name(self) -> str:
        flags = [name for name in ("norm_before_residual", "norm_output") if getattr(self, name)]
        flags += [self.aux_norm] if self.aux_norm else []
        vocabulary = "full" if self.full_vocabulary else "reduced"
        words = [
            f"K{self.steps}",
            vocabulary,
            f"{self.layers}-layer",
            self.attention,
            *(flags or ["no-flag"]),
        ]
        return "-".join(words)

    def shape(self) -> Eagle3Config:
        return replace(
            SHAPE,
            norm_before_residual=self.norm_before_residual,
            norm_before_fc=self.aux_norm == "norm_before_fc",
            fc_norm=self.aux_norm == "fc_norm",
            norm_output=self.norm_output,
            layers=self.layers,
            draft_vocab_size=SHAPE.vocab_size if self.full_vocabulary else SHAPE.draft_vocab_size,
        )


def agreements() -> list[Agreement]:
    """All norm flags x unroll lengths x vocabularies; layers and the reference's attention take turns."""
    flags = itertools.product((False, True), (None, "norm_before_fc", "fc_norm"), (False, True))
    named = itertools.product(flags, range(1, LONGEST_UNROLL + 1), (False, True))
    return [
        Agreement(*norms, steps, full, 1 + number % 3 // 2, ("sdpa", "eager")[number // 2 % 2])
        for number, (norms, steps, full) in enumerate(named)
    ]


def random_weights(shape: Eagle3Config, steps: int, seed: int = 0, tied: bool = False) -> Case:
    """A case without a batch; no norm's gain is one.  ``tied``: the verifier's head is its embedding."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
        return mean + std * torch.randn(*size, generator=generator)

    names = Eagle3Draft(shape).state_dict()
    draft = {
        name: normal(*tensor.shape, mean=1.0, std=0.2) if tensor.dim() == 1
        else normal(*tensor.shape, std=tensor.shape[1] ** -0.5)
        for name, tensor in names.items()
    }  # fmt: skip
    ids = torch.randperm(shape.vocab_size, generator=generator)[: shape.draft_vocab_size].sort().values
    rows = (shape.vocab_size, shape.hidden_size)
    verifier = {
        "embedding": normal(*rows, std=2 * shape.hidden_size**-0.5),
        "final_norm": normal(shape.hidden_size, mean=1.0, std=0.2),
        "draft_ids": ids,
    }
    if not tied:
        verifier["head"] = normal(*rows, std=2 * shape.hidden_size**-0.5)
    return Case(asdict(shape), steps, STEP_DECAY, draft, verifier, {})


def random_batch(
    shape: Eagle3Config, documents: Sequence[tuple[int, int]], seed: int = 0
) -> dict[str, torch.Tensor]:
    """Documents of (tokens, prompt tokens) packed side by side, with random states."""
    generator = torch.Generator().manual_seed(seed)
    lengths, prompts = (torch.tensor(column) for column in zip(*documents))
    tokens = int(lengths.sum())
    places = torch.cat([torch.arange(length) for length in lengths])  # [S]
    states = (tokens, len(shape.aux_layers) + 1, shape.hidden_size)
    return {
        "token_ids": torch.randint(shape.vocab_size, (tokens,), generator=generator),
        "hidden_states": torch.randn(states, generator=generator),
        "document_ids": torch.repeat_interleave(torch.arange(len(lengths)), lengths),
        "positions": places,
        "supervised": places >= torch.repeat_interleave(prompts, lengths),
    }


def random_case(
    shape: Eagle3Config, steps: int, documents: Sequence[tuple[int, int]] = DOCUMENTS, seed: int = 0
) -> Case:
    """Random weights and one random batch."""
    return random_weights(shape, steps, seed)._replace(batch=random_batch(shape, documents, seed))


def sequence(batch: dict[str, torch.Tensor], dtype: torch.dtype = torch.float32) -> PackedSequence:
    """A case's batch as this project packs it, its states in ``dtype``."""
    ends = torch.nonzero(batch["document_ids"].diff(append=torch.tensor([-1]))).squeeze(1) + 1
    starts = [0, *ends.tolist()[:-1]]
    return PackedSequence(
        ids=tuple(f"document {number}" for number in range(len(starts))),
        documents=tuple(zip(starts, ends.tolist())),
        **{**batch, "hidden_states": batch["hidden_states"].to(dtype)},
    )
