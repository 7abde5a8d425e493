from __future__ import annotations

import pytest
import torch

from speculators.training.losses import forward_kl


def test_gradients_match_finite_differences() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    target = 3 * torch.randn(3, 7, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: forward_kl(x, target), (logits,))


def test_forward_kl_is_the_sum_it_claims_to_be_and_its_gradient_is_q_minus_p() -> None:
    torch.manual_seed(1)
    logits = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    target = torch.randn(4, 9, dtype=torch.float64)
    p, q = target.softmax(-1), logits.softmax(-1)
    divergence = forward_kl(logits, target)
    torch.testing.assert_close(divergence, (p * (p / q).log()).sum(-1))
    divergence.sum().backward()
    torch.testing.assert_close(logits.grad, (q - p).detach())


def test_forward_kl_is_zero_only_in_agreement_and_ignores_a_constant_shift() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    assert forward_kl(logits, logits + 5).item() == pytest.approx(0, abs=1e-6)
    assert forward_kl(logits, logits.flip(-1)).item() > 0.1


def test_half_precision_logits_are_summed_in_float32() -> None:
    torch.manual_seed(2)
    logits, target = torch.randn(2, 2, 4096).to(torch.bfloat16)
    divergence = forward_kl(logits, target)
    assert divergence.dtype == torch.float32
    torch.testing.assert_close(
        divergence.double(), forward_kl(logits.double(), target.double()), rtol=1e-4, atol=0
    )


def test_a_verifier_that_is_certain_gives_a_finite_loss_and_gradient() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    divergence = forward_kl(logits, torch.tensor([[0.0, -1e4, -1e4]]))
    divergence.sum().backward()
    assert torch.isfinite(divergence).all()
    assert torch.isfinite(logits.grad).all()
