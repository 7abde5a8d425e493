"""Attention to the past alone, by whatever computes it fastest on a device.

A kernel is a pair of functions: forward returns (out, log-sum-exp), backward takes them, merged with
more than the kernel has seen or not (``models.attention``).  Adding one is a class and a line of
``kernel_for``; ``PlainKernel`` is what it must equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch

from speculators.models.layout import Layout, Run, Runs

BLOCK = 256  # queries of which the plain kernel holds scores at once


class Kernel(Protocol):
    """Attention to the past: queries [N, Hq, D], keys and values [S, Hkv, D], GQA by head // G.

    Scores are scaled by D ** -0.5.  ``lse`` is [N, Hq], at least float32.
    """

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(out [N, Hq, D], lse [N, Hq])."""
        ...

    def backward(
        self,
        grad: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        layout: Layout,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients of q, k and v given those of ``out``; out and lse may have been merged with more."""
        ...


class PlainKernel:
    """Every score written out, block by block: any device and dtype, and the one to believe."""

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout
    ) -> tuple[torch.Tensor, torch.Tensor]:
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:2], dtype=exact(q.dtype))
        for queries, keys, hidden in _blocks(layout, q.device):
            scores = self._scores(q[queries], k[keys], hidden)  # [Hkv, G, n, m]
            part = scores.logsumexp(dim=-1)  # [Hkv, G, n]
            weights = (scores - part[..., None]).exp().to(v.dtype)
            mixed = torch.einsum("kgnm,mkd->nkgd", weights, v[keys])  # [n, Hkv, G, D]
            out[queries] = mixed.flatten(1, 2)
            lse[queries] = part.permute(2, 0, 1).flatten(1)
        return out, lse

    def backward(
        self,
        grad: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        layout: Layout,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        groups = (k.shape[1], -1)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        delta = (grad * out).sum(dim=-1, dtype=lse.dtype).unflatten(1, groups)  # [N, Hkv, G]
        for queries, keys, hidden in _blocks(layout, q.device):
            scores = self._scores(q[queries], k[keys], hidden)  # [Hkv, G, n, m]
            part = lse[queries].unflatten(1, groups).permute(1, 2, 0)[..., None]  # [Hkv, G, n, 1]
            weights = (scores - part).exp()
            upstream = grad[queries].unflatten(1, groups)  # [n, Hkv, G, D]
            grad_v[keys] += torch.einsum("kgnm,nkgd->mkd", weights.to(v.dtype), upstream)
            by_weight = torch.einsum("nkgd,mkd->kgnm", upstream, v[keys])
            by_score = weights * (by_weight - delta[queries].permute(1, 2, 0)[..., None])
            by_score = (by_score * scale(q)).to(q.dtype)
            grad_q[queries] = torch.einsum("kgnm,mkd->nkgd", by_score, k[keys]).flatten(1, 2)
            grad_k[keys] += torch.einsum("kgnm,nkgd->mkd", by_score, q[queries].unflatten(1, groups))
        return grad_q, grad_k, grad_v

    @staticmethod
    def _scores(q: torch.Tensor, k: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Scaled scores [Hkv, G, n, m], minus infinity where ``hidden`` [n, m]."""
        grouped = q.unflatten(1, (k.shape[1], -1))  # [n, Hkv, G, D]
        scores = torch.einsum("nkgd,mkd->kgnm", grouped, k).to(exact(q.dtype)) * scale(q)
        return scores.masked_fill(hidden, -math.inf)


def _blocks(layout: Layout, device: torch.device) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Query rows, key rows and what they may not see [n, m], a block of a run at a time."""
    for (first, end), (key_first, key_end) in layout.runs:
        shift = key_end - end  # from a query row to its own key row
        for start in range(first, end, BLOCK):
            stop = min(start + BLOCK, end)
            own = torch.arange(start + shift, stop + shift, device=device)[:, None]  # [n, 1]
            oldest = max(key_first, start + shift + 1 - layout.window) if layout.window else key_first
            seen = torch.arange(oldest, stop + shift, device=device)  # [m]
            hidden = seen > own
            if layout.window is not None:
                hidden |= seen <= own - layout.window
            yield slice(start, stop), slice(oldest, stop + shift), hidden


class CpuFlashKernel:
    """Torch's own flash attention for CPUs.

    Its ``is_causal`` is aligned at the start, so a run whose queries start late becomes two
    rectangles: the keys before its first query without a mask, the square behind them causally.
    """

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout
    ) -> tuple[torch.Tensor, torch.Tensor]:
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:2], dtype=exact(q.dtype))
        for piece in _pieces(layout, q):
            made, part = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                *(_batched(x) for x in (q[piece.queries], k[piece.keys], v[piece.keys])),
                is_causal=piece.causal,
                attn_mask=piece.mask,
            )
            made, part = made[0].transpose(0, 1), part[0].T  # [n, Hq, D], [n, Hq]
            if piece.further:
                made, part = merged(out[piece.queries], lse[piece.queries], made, part)
            out[piece.queries], lse[piece.queries] = made, part
        return out, lse

    def backward(
        self,
        grad: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        layout: Layout,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        grad_q, grad_k, grad_v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for piece in _pieces(layout, q):
            rows = piece.queries
            by_q, by_k, by_v = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                *(_batched(x) for x in (grad[rows], q[rows], k[piece.keys], v[piece.keys], out[rows])),
                lse[rows].T[None],  # [1, Hq, n]
                0.0,
                piece.causal,
                attn_mask=piece.mask,
            )
            grad_q[rows] += by_q[0].transpose(0, 1)
            grad_k[piece.keys] += by_k[0].transpose(0, 1)
            grad_v[piece.keys] += by_v[0].transpose(0, 1)
        return grad_q, grad_k, grad_v


class Piece(NamedTuple):
    """A rectangle of scores that one call of a kernel can do."""

    queries: slice
    keys: slice
    causal: bool = False
    mask: torch.Tensor | None = None  # [n, m], added to the scores
    further: bool = False  # these queries have had a piece before


def _pieces(layout: Layout, q: torch.Tensor) -> Iterator[Piece]:
    for (first, end), (key_first, key_end) in layout.runs:
        queries, own = slice(first, end), key_end - (end - first)  # the key row of the first query
        if layout.window is not None and key_end - key_first > layout.window:
            for rows, keys, hidden in _blocks(
                layout._replace(runs=Runs([Run((first, end), (key_first, key_end))])), q.device
            ):
                mask = q.new_zeros(hidden.shape).masked_fill_(hidden, -math.inf)
                yield Piece(rows, keys, mask=mask)
            continue
        if own > key_first:
            yield Piece(queries, slice(key_first, own))
        yield Piece(queries, slice(own, key_end), causal=True, further=own > key_first)


def _batched(x: torch.Tensor) -> torch.Tensor:
    """[n, heads, D] -> [1, heads, n, D], a view."""
    return x.transpose(0, 1)[None]


class CudaFlashKernel:
    """Flash attention with variable lengths (``torch.nn.attention.varlen`` calls the same operators).

    Causal masks are aligned at the end there, which is what a run is; runs of one document share
    keys, hence the gather.  Unverified: no GPU has run this yet.
    """

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = layout.key_rows
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            q, k[rows], v[rows], *_lengths(layout), 0.0, True, False, **_options(layout, q)
        )
        return out, lse.T  # [N, Hq]

    def backward(
        self,
        grad: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        layout: Layout,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows, state = layout.key_rows, torch.zeros(2, dtype=torch.uint64, device=q.device)  # no dropout
        inputs = (grad.contiguous(), q, k[rows], v[rows], out, lse.T.contiguous())
        grad_q, by_k, by_v = torch.ops.aten._flash_attention_backward(
            *inputs, *_lengths(layout), 0.0, True, state, q.new_empty(0), **_options(layout, q)
        )
        grad_k = torch.zeros_like(k).index_add_(0, rows, by_k)
        grad_v = torch.zeros_like(v).index_add_(0, rows, by_v)
        return grad_q, grad_k, grad_v


def _lengths(layout: Layout) -> tuple[torch.Tensor, torch.Tensor, int, int]:
    return layout.query_offsets, layout.key_offsets, *layout.longest


def _options(layout: Layout, q: torch.Tensor) -> dict[str, Any]:
    left, right = (-1, -1) if layout.window is None else (layout.window - 1, 0)
    return {"scale": scale(q), "window_size_left": left, "window_size_right": right}


PLAIN = PlainKernel()
CPU_FLASH = CpuFlashKernel()
CUDA_FLASH = CudaFlashKernel()
#: Features of a head that torch's flash attention takes at the most, and only multiples of 8.
CUDA_FLASH_WIDEST = 256


def kernel_for(device: torch.device, dtype: torch.dtype, head_dim: int) -> Kernel:
    """The fastest kernel that computes heads of ``head_dim`` features in ``dtype`` on ``device``.

    On "meta" a GPU's costs are counted.
    """
    if device.type == "cpu":
        return CPU_FLASH
    fits = head_dim % 8 == 0 and head_dim <= CUDA_FLASH_WIDEST
    if device.type in ("cuda", "meta") and dtype in (torch.float16, torch.bfloat16) and fits:
        return CUDA_FLASH
    return PLAIN


def merged(
    out: torch.Tensor, lse: torch.Tensor, more: torch.Tensor, more_lse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two attentions of the same queries to different keys as one: out [n, Hq, D], lse [n, Hq]."""
    total = torch.logaddexp(lse, more_lse)
    share, rest = ((part - total).exp()[..., None].to(out.dtype) for part in (lse, more_lse))
    return out * share + more * rest, total


def scale(q: torch.Tensor) -> float:
    """What scores of queries [..., D] are multiplied by."""
    return float(q.shape[-1] ** -0.5)


def exact(dtype: torch.dtype) -> torch.dtype:
    """The dtype of scores and their sums: at least float32."""
    return torch.promote_types(dtype, torch.float32)
