"""Small operators of a decoder layer with their gradients written by hand.

Autograd would record each multiplication and keep its operands.  These keep what the backward pass
needs and touch memory as seldom as they can: beside the matrix products of a draft layer, memory is
what a CPU waits for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from speculators.models.rope import turn


class _UnitRms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
        inverse = inverse_rms(x, eps)  # [T, 1]
        unit = (x * inverse).to(dtype)  # [T, H]
        ctx.save_for_backward(unit, inverse)
        return unit

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        unit, inverse = ctx.saved_tensors
        along = (grad * unit).mean(dim=-1, keepdim=True, dtype=inverse.dtype)  # [T, 1]
        return torch.addcmul(grad.to(inverse.dtype), unit, along, value=-1).mul_(inverse), None, None


def inverse_rms(x: torch.Tensor, eps: float) -> torch.Tensor:
    """1 / sqrt(mean of squares + eps) of the last axis, [..., 1], at least in float32."""
    exact = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def unit_rms(x: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
    """RMS norm without a gain, y = x / rms(x), of x [T, H]; the result in ``dtype``.

    A gain before a matrix belongs into the matrix: ``W (g * y) = (W diag(g)) y`` costs nothing per
    row, and where x is a constant its gradient needs no product with W.  With r = 1 / rms(x),
    ``dy_i/dx_j = r ([i = j] - y_i y_j / H)``, so ``dx = r (dy - y mean(dy * y))``.
    """
    made: torch.Tensor = _UnitRms.apply(x, eps, dtype)
    return made


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        gate, up = x.chunk(2, dim=-1)  # [T, I]
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        gate, up = ctx.saved_tensors[0].chunk(2, dim=-1)  # [T, I]
        by_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return torch.cat([by_gate, grad * functional.silu(gate)], dim=-1)  # [T, 2I]


def gated(x: torch.Tensor) -> torch.Tensor:
    """SwiGLU, ``silu(gate) * up`` of [gate; up] side by side: [T, 2I] -> [T, I].

    silu(g) = g s(g) with s the logistic function has the derivative ``s (1 + g (1 - s))``.
    """
    made: torch.Tensor = _Gated.apply(x)
    return made


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, query_heads: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(cos, sin)
        size = 2 * cos.shape[-1]
        heads = x.unflatten(1, (-1, size))  # [T, Hq + 2 Hkv, D]
        queries, past = heads[:, :query_heads], heads[:, query_heads:]
        keys, values = past.chunk(2, dim=1)
        return turn(queries, cos, sin), torch.cat([turn(keys, cos, sin), values], dim=1)

    @staticmethod
    def backward(
        ctx: Any, by_queries: torch.Tensor, by_past: torch.Tensor
    ) -> tuple[torch.Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        by_keys, by_values = by_past.chunk(2, dim=1)
        back = turn(by_queries, cos, -sin), turn(by_keys, cos, -sin), by_values
        return torch.cat(back, dim=1).flatten(1), None, None, None


def turned(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, query_heads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Split a joint projection into heads and turn queries and keys by RoPE.

    Args:
        x: queries, keys and values side by side, [T, (Hq + 2 Hkv) D].
        cos, sin: [T, 1, D/2] (``models.rope``).
        query_heads: Hq; 0 where only keys and values were projected, all where only queries were.

    Returns the queries [T, Hq, D], and keys and values side by side [T, 2 Hkv, D].  A rotation's
    gradient is the rotation back.
    """
    queries, past = _Turned.apply(x, cos, sin, query_heads)
    return queries, past
