from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from speculators.models.operators import BLOCK_ROWS, feed_forward, joined, normed, turned, unit_rms
from speculators.models.rope import Rope, turn

EPS = 1e-5


def random(*size: int) -> torch.Tensor:
    return torch.randn(size, dtype=torch.float64, requires_grad=True)


def test_gradients_match_finite_differences() -> None:
    torch.manual_seed(0)
    cos, sin = Rope.of({"rope_theta": 100.0}, 4).tables(torch.arange(3), torch.float64)
    assert torch.autograd.gradcheck(lambda x: unit_rms(x, EPS, x.dtype), (random(3, 6),))
    double = torch.float64
    gains = random(6), random(6)
    assert torch.autograd.gradcheck(
        lambda x, *gains: normed(x, EPS, double, *((gain, double) for gain in gains)), (random(3, 6), *gains)
    )
    assert torch.autograd.gradcheck(feed_forward, (random(3, 6), random(8, 6), random(6, 4)))
    assert torch.autograd.gradcheck(
        lambda gain, *matrices: joined(double, gain, matrices), (random(6), random(2, 6), random(3, 6))
    )
    for query_heads in (0, 2, 4):
        assert torch.autograd.gradcheck(lambda x, n=query_heads: turned(x, cos, sin, n), (random(3, 16),))


def test_a_feed_forward_in_blocks_of_rows_has_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    inputs = random(5, 6), random(8, 6), random(6, 4)
    upstream = torch.randn(5, 6, dtype=torch.float64)
    whole = torch.autograd.grad(feed_forward(*inputs), inputs, upstream)
    monkeypatch.setitem(BLOCK_ROWS, "cpu", 2)
    assert torch.autograd.gradcheck(feed_forward, inputs)
    blocks = torch.autograd.grad(feed_forward(*inputs), inputs, upstream)
    torch.testing.assert_close(blocks, whole, rtol=1e-14, atol=1e-14)


def test_the_number_of_blocks_costs_half_precision_no_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    inputs = [one.detach().bfloat16().requires_grad_() for one in (random(64, 6), random(8, 6), random(6, 4))]
    upstream = torch.randn(64, 6).bfloat16()
    whole = torch.autograd.grad(feed_forward(*inputs), inputs, upstream)
    monkeypatch.setitem(BLOCK_ROWS, "cpu", 2)
    blocks = torch.autograd.grad(feed_forward(*inputs), inputs, upstream)
    assert all(torch.equal(one, other) for one, other in zip(blocks, whole))


def test_a_feed_forward_of_no_rows_teaches_nothing() -> None:
    x, *matrices = random(0, 6), random(8, 6), random(6, 4)
    feed_forward(x, *matrices).sum().backward()
    assert x.grad is not None
    assert all(matrix.grad is not None and not matrix.grad.any() for matrix in matrices)


def test_the_norm_without_a_gain_is_torch_s() -> None:
    x = torch.randn(5, 16)
    torch.testing.assert_close(unit_rms(x, EPS, torch.float32), functional.rms_norm(x, (16,), eps=EPS))
    half = unit_rms(x.bfloat16(), EPS, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), functional.rms_norm(x, (16,), eps=EPS), rtol=2e-2, atol=2e-2)


def test_gains_are_behind_the_norm_each_in_its_own_dtype() -> None:
    x, *gains = torch.randn(5, 16), torch.rand(16), torch.rand(16)
    unit, wide, half = normed(x, EPS, torch.bfloat16, (gains[0], torch.float32), (gains[1], torch.bfloat16))
    assert (unit.dtype, wide.dtype, half.dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)
    torch.testing.assert_close(wide, functional.rms_norm(x, (16,), gains[0], EPS))
    torch.testing.assert_close(half, functional.rms_norm(x, (16,), gains[1], EPS).bfloat16())


def test_a_norm_that_nothing_reads_has_no_gradient() -> None:
    x, gain = torch.randn(3, 4, requires_grad=True), torch.ones(4, requires_grad=True)
    unit, gained = normed(x, EPS, torch.float32, (gain, torch.float32))
    unit.sum().backward(retain_graph=True)
    assert gain.grad is None
    gained.sum().backward()
    assert gain.grad is not None


def test_the_gate_comes_first() -> None:
    x, gate, up, down = torch.randn(5, 8), *torch.randn(2, 16, 8), torch.randn(8, 16)
    found = feed_forward(x, torch.cat([gate, up]), down)
    torch.testing.assert_close(found, (functional.silu(x @ gate.T) * (x @ up.T)) @ down.T)


def test_a_gain_belongs_to_the_columns_of_all_joined_matrices() -> None:
    x, gain, one, other = torch.randn(5, 8), torch.rand(8), torch.randn(3, 8), torch.randn(2, 8)
    found = x @ joined(torch.float32, gain, [one, other]).T
    torch.testing.assert_close(found, torch.cat([(x * gain) @ one.T, (x * gain) @ other.T], dim=1))


def test_queries_and_keys_are_turned_and_values_are_not() -> None:
    x = torch.randn(5, (4 + 2 + 2) * 6)
    angles = Rope.of({"rope_theta": 100.0}, 6).tables(torch.arange(5), torch.float32)
    queries, past = turned(x, *angles, 4)
    heads = x.view(5, 8, 6)
    torch.testing.assert_close(queries, turn(heads[:, :4], *angles))
    torch.testing.assert_close(past, torch.cat([turn(heads[:, 4:6], *angles), heads[:, 6:]], dim=1))
