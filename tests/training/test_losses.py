from __future__ import annotations

import math

import pytest
import torch

from speculators.training.losses import LOSSES, Compared, WeightedSum

BROUGHT_MODELS, ROWS, WORDS = 2, 3, 7
MIXTURE = {"forward_kl": 0.1, "total_variation": 0.9, "cross_entropy": 2.0}


def logits(seed: int, *size: int, spread: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(size, generator=generator, dtype=torch.float64)


def plain_value(name: str, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Each divergence as a textbook writes it."""
    middle = (p + q) / 2
    return {
        "forward_kl": lambda: (p * (p / q).log()).sum(-1),
        "reverse_kl": lambda: (q * (q / p).log()).sum(-1),
        "jensen_shannon": lambda: ((p * (p / middle).log()).sum(-1) + (q * (q / middle).log()).sum(-1)) / 2,
        "cross_entropy": lambda: -q.log()[..., torch.arange(ROWS), p.argmax(-1)],
        "total_variation": lambda: 1 - torch.minimum(p, q).sum(-1),
    }[name]()


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_is_the_sum_it_claims_to_be(name: str) -> None:
    drafts, verifier = logits(1, BROUGHT_MODELS, ROWS, WORDS), logits(2, ROWS, WORDS)
    value = LOSSES[name].value(Compared.of(drafts, verifier))
    torch.testing.assert_close(value, plain_value(name, verifier.softmax(-1), drafts.softmax(-1)))


@pytest.mark.parametrize("terms", [*({name: 1.0} for name in LOSSES), MIXTURE], ids=[*LOSSES, "mixture"])
def test_the_derived_gradient_is_autograd_s_and_finite_differences(terms) -> None:
    loss = WeightedSum(terms)
    verifier = logits(2, ROWS, WORDS, spread=2)
    drafts = logits(1, BROUGHT_MODELS, ROWS, WORDS).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss.value(Compared.of(z, verifier)), (drafts,))
    value, gradient = loss.with_gradient(Compared.of(drafts.detach(), verifier))
    plain = loss.value(Compared.of(drafts, verifier))
    plain.sum().backward()
    torch.testing.assert_close(value, plain.detach())
    torch.testing.assert_close(gradient, drafts.grad)


@pytest.mark.parametrize("name", LOSSES)
def test_agreement_is_the_minimum_and_a_constant_shift_changes_nothing(name: str) -> None:
    verifier = logits(3, ROWS, WORDS, spread=3)
    loss = WeightedSum({name: 1.0})
    agreed = loss.value(Compared.of(verifier, verifier))
    if name != "cross_entropy":  # whose minimum over q is at the greedy token alone
        torch.testing.assert_close(agreed, torch.zeros_like(agreed))
        assert loss.with_gradient(Compared.of(verifier, verifier))[1].abs().max() < 1e-12
    torch.testing.assert_close(loss.value(Compared.of(verifier + 5, verifier - 3)), agreed)
    assert (loss.value(Compared.of(verifier.flip(-1), verifier)) > agreed + 1e-3).all()


def test_bounds_hold() -> None:
    opposite = Compared.of(torch.tensor([[50.0, -50.0]]), torch.tensor([[-50.0, 50.0]]))
    assert LOSSES["total_variation"].value(opposite).item() == pytest.approx(1)
    assert LOSSES["jensen_shannon"].value(opposite).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("name", LOSSES)
def test_a_verifier_that_is_certain_gives_a_finite_loss_and_gradient(name: str) -> None:
    certain = torch.tensor([[0.0, -1e4, -1e4]])
    value, gradient = WeightedSum({name: 1.0}).with_gradient(Compared.of(torch.zeros(1, 3), certain))
    assert torch.isfinite(value).all()
    assert torch.isfinite(gradient).all()


def test_half_precision_logits_are_summed_in_float32() -> None:
    torch.manual_seed(2)
    drafts, verifier = torch.randn(2, 2, 4096).to(torch.bfloat16)
    value = LOSSES["forward_kl"].value(Compared.of(drafts, verifier))
    assert value.dtype == torch.float32
    exact = LOSSES["forward_kl"].value(Compared.of(drafts.double(), verifier.double()))
    torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=0)
