"""What of the verifier is beside the draft while it learns."""

from __future__ import annotations

import pytest
import torch

from speculators.training.verifier import FrozenVerifier
from tests.models import tiny

DEVICE = torch.device("meta")
IDS, EVERY = torch.arange(0, 50, 3), torch.arange(tiny.CONFIG.vocab_size)


def test_the_head_s_other_rows_rest_where_they_were_read_until_they_are_asked() -> None:
    weights = tiny.weights(dtype=torch.float32)
    verifier = FrozenVerifier.of(weights, IDS, torch.bfloat16, DEVICE)
    assert verifier.ends.head is weights.head
    assert (verifier.draft_head.device, verifier.draft_head.dtype) == (DEVICE, torch.bfloat16)
    assert verifier.draft_head.shape == (len(IDS), tiny.CONFIG.hidden_size)
    whole = verifier.whole()
    assert (whole.ends.head.device, whole.ends.head.dtype) == (DEVICE, torch.bfloat16)
    states = torch.empty(3, tiny.CONFIG.hidden_size, dtype=torch.bfloat16, device=DEVICE)
    assert whole.choices(states).shape == (3,)


@pytest.mark.parametrize("tied", [False, True])
def test_a_draft_of_every_word_speaks_through_the_head_itself(tied: bool) -> None:
    weights = tiny.weights(dtype=torch.float32)
    if tied:
        weights = weights._replace(head=weights.embedding)
    verifier = FrozenVerifier.of(weights, EVERY, torch.bfloat16, DEVICE)
    assert verifier.draft_head is verifier.ends.head is verifier.whole().ends.head
    assert (verifier.draft_head is verifier.embedding) == tied


def test_a_tied_head_is_there_as_the_embedding() -> None:
    weights = tiny.weights()
    verifier = FrozenVerifier.of(weights._replace(head=weights.embedding), IDS, torch.float32, DEVICE)
    assert verifier.ends.head is verifier.embedding


def test_the_final_norm_is_not_rounded_to_the_dtype_of_products() -> None:
    """A family that stores the difference from one has digits there that half precision has not."""
    gains = 1 + torch.randn(tiny.CONFIG.hidden_size).bfloat16().float() / 64
    weights = tiny.weights(dtype=torch.bfloat16)._replace(final_norm=gains)
    states = torch.randn(50, tiny.CONFIG.hidden_size).bfloat16()
    assert torch.equal(FrozenVerifier.of(weights, IDS, torch.bfloat16).normed(states), weights.normed(states))
    rounded = weights._replace(final_norm=gains.bfloat16())
    assert not torch.equal(rounded.normed(states), weights.normed(states))


def test_the_whole_head_says_what_the_head_says() -> None:
    weights = tiny.weights()
    states = torch.randn(5, tiny.CONFIG.hidden_size, dtype=torch.float64)
    verifier = FrozenVerifier.of(weights, IDS, torch.float64)
    assert torch.equal(verifier.whole().choices(states), weights.logits(states).argmax(-1))
