"""Attention of train-time-test by two primitives, so that any fast kernel can serve it.

At drafting step k row t attends to the verifier's rows 0..t of its document (the *past*, keys of
step 0) and, of every later step, to itself only (its *own* drafts; see ``training.ttt``).  Written
out with scores s and values v, its output is

    out = sum_past p_i v_i + sum_own p_j v_j,     p = exp(s - lse),     lse = log sum exp(s) over both.

**Forward.**  A kernel attends to the past alone and returns (out, lse) of it.  The own scores, one
number a row, head and step, are merged in afterwards: with ``lse' = logaddexp(lse, own scores)``,
``out' = exp(lse - lse') out + sum_j exp(s_j - lse') v_j``.

**Backward.**  Softmax's gradient is ``ds_i = p_i (g . v_i - delta)`` with ``delta = g . out'``.  It
needs the *merged* lse and out only, and each score by itself: so the kernel's own backward, given
(out', lse'), yields the past's exact gradient, and the own terms are three products a step.

A kernel is therefore a pair of functions (``models.kernels``), and no score of a past is ever stored.
Nothing here knows a draft: queries are any rows, ``models.layout`` says what each may see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from speculators.models.kernels import Kernel, exact, scale
from speculators.models.layout import Layout


class _Attend(torch.autograd.Function):
    """See the module: the past by a kernel, own scores merged in."""

    @staticmethod
    def forward(
        ctx: Any,
        kernel: Kernel,
        layout: Layout,
        q: torch.Tensor,
        past: torch.Tensor,
        *own: torch.Tensor,
    ) -> torch.Tensor:
        k, v = past.chunk(2, dim=1)  # [S, Hkv, D]
        out, lse = kernel.forward(q, k, v, layout)  # [N, Hq, D], [N, Hq]
        if own:
            scores = torch.stack([_own_scores(q, part) for part in own])  # [J, N, Hq]
            total = torch.cat([lse[None], scores]).logsumexp(dim=0)  # [N, Hq]
            out = out * (lse - total).exp()[..., None].to(out.dtype)
            for part, weight in zip(own, (scores - total).exp().to(out.dtype)):
                grouped = _grouped(out, part)  # a view: [N, Hkv, G, D]
                grouped.addcmul_(_values(part), _grouped(weight[..., None], part))
            lse = total
        ctx.kernel, ctx.layout = kernel, layout
        ctx.save_for_backward(q, past, out, lse, *own)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        q, past, out, lse, *own = ctx.saved_tensors
        grad_q, *by_past = ctx.kernel.backward(grad, q, *past.chunk(2, dim=1), out, lse, ctx.layout)
        by_own = []
        delta = (grad * out).sum(dim=-1, dtype=lse.dtype) if own else None  # [N, Hq]
        for part in own:
            weights = (_own_scores(q, part) - lse).exp()  # [N, Hq]
            upstream = _grouped(grad, part)  # [N, Hkv, G, D]
            by_weight = (upstream * _values(part)).sum(dim=-1, dtype=lse.dtype).flatten(1)  # [N, Hq]
            by_score = (weights * (by_weight - delta) * scale(q)).to(q.dtype)[..., None]  # [N, Hq, 1]
            weights = weights.to(q.dtype)[..., None]  # [N, Hq, 1]
            _grouped(grad_q, part).addcmul_(_keys(part), _grouped(by_score, part))
            by_key = (_grouped(q * by_score, part)).sum(dim=2)  # [N, Hkv, D]
            by_value = (_grouped(grad * weights, part)).sum(dim=2)  # [N, Hkv, D]
            by_own.append(torch.cat([by_key, by_value], dim=1))  # [N, 2 Hkv, D]
        return None, None, grad_q, torch.cat(by_past, dim=1), *by_own


def attend(
    kernel: Kernel, layout: Layout, q: torch.Tensor, past: torch.Tensor, own: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Attention of rows at one drafting step, [N, Hq, D].

    Args:
        q: queries [N, Hq, D].
        past: keys and values of step 0, side by side: [S, 2 Hkv, D].
        own: the same of each later step up to this one, J x [N, 2 Hkv, D]: row n sees its own only.
    """
    out: torch.Tensor = _Attend.apply(kernel, layout, q, past, *own)
    return out


def _own_scores(q: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Scaled scores of each row with its own key, [N, Hq]."""
    products = _grouped(q, part) * _keys(part)  # [N, Hkv, G, D]
    return products.sum(dim=-1, dtype=exact(q.dtype)).flatten(1) * scale(q)


def _grouped(x: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """[N, Hq, *] -> [N, Hkv, G, *], a view: query head k * G + g belongs to key head k, as in vLLM."""
    return x.unflatten(1, (part.shape[1] // 2, -1))


def _keys(part: torch.Tensor) -> torch.Tensor:
    return part.chunk(2, dim=1)[0][:, :, None]  # [N, Hkv, 1, D]


def _values(part: torch.Tensor) -> torch.Tensor:
    return part.chunk(2, dim=1)[1][:, :, None]  # [N, Hkv, 1, D]
