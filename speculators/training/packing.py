"""Documents into sequences: how a data set is cut, ordered and laid side by side.

Training reads whole sequences of about ``sequence_length`` tokens because small matrices waste the
machine; documents are laid end to end without padding, and never see each other.
Planning works on lengths alone, so the order of a whole run is known (and tested) before any
hidden state is touched.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch

from speculators.datagen.shards import Document


class PackedSequence(NamedTuple):
    """Documents side by side, S tokens in all.

    ``documents`` are token spans in order.  ``supervised[i]``: the verifier generated token i.
    """

    ids: tuple[str, ...]
    documents: tuple[tuple[int, int], ...]
    token_ids: torch.Tensor  # [S] int64
    hidden_states: torch.Tensor  # [S, L, H], layer axis ascending, the last before the final norm
    document_ids: torch.Tensor  # [S] int64, 0-based within the sequence
    positions: torch.Tensor  # [S] int64, from 0 in each document
    supervised: torch.Tensor  # [S] bool

    def to(self, device: torch.device) -> PackedSequence:
        """The same sequence with its tensors on ``device``."""
        fields = self._asdict().items()
        return self._replace(
            **{name: part.to(device) for name, part in fields if isinstance(part, torch.Tensor)}
        )


class Fitted(NamedTuple):
    """Documents that fit into a sequence, and what fitting cost."""

    documents: list[Document]
    cut: int  # documents longer than a sequence, whose tail was cut off
    lost_tokens: int  # tokens in those tails
    unsupervised: int  # documents left out: nothing in them teaches the draft


def fit(documents: Sequence[Document], sequence_length: int) -> Fitted:
    """Cut documents to ``sequence_length`` tokens; leave out those without a token to learn.

    A tail is dropped rather than made a document of its own: its rows would attend to a past that
    is no longer there.  A generated token can be drafted only from two tokens before it, hence
    ``max(prompt_tokens, 2)``.
    """
    kept, cut, lost, unsupervised = [], 0, 0, 0
    for document in documents:
        length = len(document.token_ids)
        if length > sequence_length:
            cut, lost = cut + 1, lost + length - sequence_length
            document = document._replace(
                token_ids=document.token_ids[:sequence_length],
                hidden_states=document.hidden_states[:sequence_length],
            )
        if len(document.token_ids) > max(document.prompt_tokens, 2):
            kept.append(document)
        else:
            unsupervised += 1
    return Fitted(kept, cut, lost, unsupervised)


def plan_epoch(
    lengths: Sequence[int], sequence_length: int, seed: int | None, epoch: int = 0
) -> list[list[int]]:
    """Document numbers of each sequence of one epoch.

    The order is a shuffle that depends on ``seed`` and ``epoch`` only (None keeps the given order).
    A sequence takes the next document until it would overflow ("next fit"): simple, stateless, and
    the unfilled end costs nothing because nothing is padded.
    """
    order = list(range(len(lengths)))
    if seed is not None:
        random.Random(f"{seed}/{epoch}").shuffle(order)
    plan: list[list[int]] = []
    room = 0
    for number in order:
        if not plan or lengths[number] > room:
            plan.append([])
            room = sequence_length
        plan[-1].append(number)
        room -= lengths[number]
    return plan


def pack(documents: Sequence[Document], dtype: torch.dtype = torch.float32) -> PackedSequence:
    """Lay documents end to end; hidden states are cast to ``dtype``."""
    return filled(outlined(documents), documents, dtype)


def filled(outline: PackedSequence, documents: Sequence[Document], dtype: torch.dtype) -> PackedSequence:
    """The ``outlined`` documents with their hidden states, cast to ``dtype``."""
    states = torch.cat([document.hidden_states for document in documents])  # [S, L, H]
    return outline._replace(hidden_states=states.to(dtype))


def outlined(documents: Sequence[Document]) -> PackedSequence:
    """Lay documents end to end but for their hidden states, [0, L, H]: these are nearly all of a sequence."""
    lengths = [len(document.token_ids) for document in documents]
    ends = torch.tensor(lengths).cumsum(0).tolist()
    starts = [end - length for end, length in zip(ends, lengths)]
    positions = [torch.arange(length) for length in lengths]
    return PackedSequence(
        ids=tuple(document.id for document in documents),
        documents=tuple(zip(starts, ends)),
        token_ids=torch.cat([document.token_ids for document in documents]),
        hidden_states=documents[0].hidden_states[:0],
        document_ids=torch.repeat_interleave(torch.arange(len(documents)), torch.tensor(lengths)),
        positions=torch.cat(positions),
        supervised=torch.cat(
            [place >= document.prompt_tokens for place, document in zip(positions, documents)]
        ),
    )
