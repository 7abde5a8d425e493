"""Small operators of a decoder layer with their gradients written by hand.

Autograd would record each multiplication and keep its operands.  These keep what the backward pass
needs and touch memory as seldom as they can: beside the matrix products of a draft layer, memory is
what a CPU waits for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional

from speculators.models.rope import turn

#: By the type of device: rows of a feed-forward that are differentiated at once, the others' T x I tensors
#: not made yet.  Any other device takes all together, because small products do not fill it.
BLOCK_ROWS = {"cpu": 512}


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, eps: float, dtypes: tuple[torch.dtype, ...], *gains: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        inverse = inverse_rms(x, eps)  # [T, 1]
        exact = x * inverse  # [T, H]
        unit = exact.to(dtypes[0])
        ctx.save_for_backward(unit, inverse, *gains)
        ctx.set_materialize_grads(False)
        return unit, *((exact * gain).to(dtype) for gain, dtype in zip(gains, dtypes[1:]))

    @staticmethod
    def backward(ctx: Any, by_unit: torch.Tensor | None, *by_gained: torch.Tensor | None) -> tuple[Any, ...]:
        unit, inverse, *gains = ctx.saved_tensors
        total = None if by_unit is None else by_unit.to(inverse.dtype)  # [T, H]
        by_gains: list[torch.Tensor | None] = []
        for gain, grad in zip(gains, by_gained):
            by_gains.append(None if grad is None else (grad * unit).sum(dim=0, dtype=inverse.dtype))
            if grad is not None:
                part = grad.to(inverse.dtype)
                total = part * gain if total is None else torch.addcmul(total, part, gain)
        if total is None:
            return None, None, None, *by_gains
        along = torch.linalg.vecdot(total, unit.to(total.dtype))[:, None].div_(unit.shape[-1])  # [T, 1]
        return torch.addcmul(total, unit, along, value=-1).mul_(inverse), None, None, *by_gains


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
    return normed(x, eps, dtype)[0]


def normed(
    x: torch.Tensor, eps: float, dtype: torch.dtype, *gained: tuple[torch.Tensor, torch.dtype]
) -> tuple[torch.Tensor, ...]:
    """``unit_rms`` of x [T, H], and behind it that times each gain [H], in the dtype beside the gain.

    One y serves norms that read the same x, and all gradients.  With gradients c_n of y times gain
    g_n, ``dg_n = sum_rows c_n y`` and y's own gradient grows by ``c_n g_n``.
    """
    gains, dtypes = [gain for gain, _ in gained], (dtype, *(kind for _, kind in gained))
    made: tuple[torch.Tensor, ...] = _Normed.apply(x, eps, dtypes, *gains)
    return made


def _blocks(x: torch.Tensor) -> Iterator[tuple[slice, int]]:
    """Rows of x [T, H] whose feed-forward is differentiated at once, and whether there were some before.

    In half precision all: blocks would be added up in it, and gradients of 8192 rows in 16 blocks were
    half as far again from double precision's.
    """
    size = BLOCK_ROWS.get(x.device.type)
    if size is None or x.dtype.itemsize < torch.float32.itemsize:
        yield slice(None), 0
        return
    for start in range(0, max(1, len(x)), size):
        yield slice(start, start + size), int(start > 0)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor, more: int) -> None:
    """``total`` becomes left times right, added to what it was where there is ``more`` than this one."""
    torch.addmm(total, left, right, beta=more, out=total)  # with beta 0 it is not read


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        gate, up = (functional.linear(x, matrix) for matrix in gate_up.chunk(2))  # [T, I]
        ctx.save_for_backward(x, gate, up, gate_up, down)
        return functional.linear(functional.silu(gate).mul_(up), down)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x, gate, up, gate_up, down = ctx.saved_tensors
        by_x, by_matrices, by_down = (torch.empty_like(one) for one in (x, gate_up, down))
        matrices, by_halves = gate_up.chunk(2), by_matrices.chunk(2)
        for rows, more in _blocks(x):
            opened = functional.silu(gate[rows])  # [n, I]
            _add_product(by_down, grad[rows].T, opened * up[rows], more)  # [H, I]
            inner = grad[rows] @ down  # [n, I]
            by_up = opened.mul_(inner)
            by_gate = torch.ops.aten.silu_backward(inner.mul_(up[rows]), gate[rows])
            for second, (by_inner, matrix, by_half) in enumerate(zip((by_gate, by_up), matrices, by_halves)):
                _add_product(by_half, by_inner.T, x[rows], more)  # [I, H]
                _add_product(by_x[rows], by_inner, matrix, second)  # [n, H]
        return by_x, by_matrices, by_down


def feed_forward(x: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """SwiGLU between two matrices, ``(silu(gate x) * up x) down``: x [T, H], [gate; up] [2I, H], [H, I].

    silu(g) = g s(g) with s the logistic function has the derivative ``s (1 + g (1 - s))``.  Its value
    is needed again for the gradients of ``up`` and ``down`` and is cheap to compute again: the
    product of both, as large as T x I, is not kept.
    """
    made: torch.Tensor = _FeedForward.apply(x, gate_up, down)
    return made


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, gain: torch.Tensor, *matrices: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gain, *matrices)
        return torch.cat([(matrix * gain).to(dtype) for matrix in matrices])  # [sum P, H]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gain, *matrices = ctx.saved_tensors
        by_gain, by_matrices = torch.zeros_like(gain), []
        for matrix, part in zip(matrices, grad.split([len(matrix) for matrix in matrices])):
            by_gain += (part * matrix).sum(dim=0)
            by_matrices.append(part * gain)
        return None, by_gain, *by_matrices


def joined(dtype: torch.dtype, gain: torch.Tensor, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Matrices [P, H] on top of each other in ``dtype``, with the gain [H] of their common input in them.

    ``W' = W diag(g)`` gives ``dW = dW' diag(g)`` and ``dg = sum_rows dW' * W``: of the parameters
    themselves, so nothing as large as they are is kept.
    """
    made: torch.Tensor = _Joined.apply(dtype, gain, *matrices)
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
