from __future__ import annotations

import torch
from torch.nn import functional

from speculators.models.operators import gated, turned, unit_rms
from speculators.models.rope import Rope, turn

EPS = 1e-5


def random(*size: int) -> torch.Tensor:
    return torch.randn(size, dtype=torch.float64, requires_grad=True)


def test_gradients_match_finite_differences() -> None:
    torch.manual_seed(0)
    cos, sin = Rope.of({"rope_theta": 100.0}, 4).tables(torch.arange(3), torch.float64)
    assert torch.autograd.gradcheck(lambda x: unit_rms(x, EPS, x.dtype), (random(3, 6),))
    assert torch.autograd.gradcheck(gated, (random(3, 8),))
    for query_heads in (0, 2, 4):
        assert torch.autograd.gradcheck(lambda x, n=query_heads: turned(x, cos, sin, n), (random(3, 16),))


def test_the_norm_without_a_gain_is_torch_s() -> None:
    x = torch.randn(5, 16)
    torch.testing.assert_close(unit_rms(x, EPS, torch.float32), functional.rms_norm(x, (16,), eps=EPS))
    half = unit_rms(x.bfloat16(), EPS, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), functional.rms_norm(x, (16,), eps=EPS), rtol=2e-2, atol=2e-2)


def test_the_gate_comes_first() -> None:
    gate, up = torch.randn(2, 5, 16)
    torch.testing.assert_close(gated(torch.cat([gate, up], dim=-1)), functional.silu(gate) * up)


def test_queries_and_keys_are_turned_and_values_are_not() -> None:
    x = torch.randn(5, (4 + 2 + 2) * 6)
    angles = Rope.of({"rope_theta": 100.0}, 6).tables(torch.arange(5), torch.float32)
    queries, past = turned(x, *angles, 4)
    heads = x.view(5, 8, 6)
    torch.testing.assert_close(queries, turn(heads[:, :4], *angles))
    torch.testing.assert_close(past, torch.cat([turn(heads[:, 4:6], *angles), heads[:, 6:]], dim=1))
