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

A kernel is therefore a pair of functions (``Kernel``), and no score of a past is ever stored.
Nothing here knows a draft: queries are any rows, ``Layout`` says what each may see.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import torch

BLOCK = 256  # queries of which the plain kernel holds scores at once


class Run(NamedTuple):
    """Consecutive query rows of one document, and the keys of that document up to the last of them.

    The i-th last query sees all keys but the i last: causal attention aligned at the end.
    """

    queries: tuple[int, int]  # first and end row of the query tensor
    keys: tuple[int, int]  # first and end row of the key tensor


class Runs:
    """Runs in order, for kernels that go from one to the next.

    A plain object and not a tuple: code compiled for a GPU reads offsets instead, and must not be
    made anew for another number of documents.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = tuple(runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)


class Layout(NamedTuple):
    """Which keys of the past each query sees; made by ``layout_of`` in the loader.

    ``window``: how many keys at most, the query's own included; None for all.  ``longest``: bounds of
    a run's queries and keys, rounded up, since kernels only plan their work by them and compiled
    code is made anew for each value.
    """

    runs: Runs
    longest: tuple[int, int]
    query_offsets: torch.Tensor  # [runs + 1] int32, where each run's queries start
    key_offsets: torch.Tensor  # [runs + 1] int32, where each run's keys start among ``key_rows``
    key_rows: torch.Tensor  # [sum of key counts] int64, each run's keys side by side
    window: int | None = None


def layout_of(runs: Sequence[Run]) -> Layout:
    """The layout of runs in order, which must cover the query rows without a gap."""
    queries = [end - start for (start, end), _ in runs]
    keys = [end - start for _, (start, end) in runs]
    rows = [torch.arange(start, end) for _, (start, end) in runs]
    return Layout(
        runs=Runs(runs),
        longest=(_rounded(max(queries, default=0)), _rounded(max(keys, default=0))),
        query_offsets=torch.tensor([0, *accumulate(queries)], dtype=torch.int32),
        key_offsets=torch.tensor([0, *accumulate(keys)], dtype=torch.int32),
        key_rows=torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int64),
    )


def _rounded(length: int) -> int:
    return 1 << max(0, length - 1).bit_length()  # the next power of two


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
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:2], dtype=_exact(q.dtype))
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
            by_score = (by_score * _scale(q)).to(q.dtype)
            grad_q[queries] = torch.einsum("kgnm,mkd->nkgd", by_score, k[keys]).flatten(1, 2)
            grad_k[keys] += torch.einsum("kgnm,nkgd->mkd", by_score, q[queries].unflatten(1, groups))
        return grad_q, grad_k, grad_v

    @staticmethod
    def _scores(q: torch.Tensor, k: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Scaled scores [Hkv, G, n, m], minus infinity where ``hidden`` [n, m]."""
        grouped = q.unflatten(1, (k.shape[1], -1))  # [n, Hkv, G, D]
        scores = torch.einsum("nkgd,mkd->kgnm", grouped, k).to(_exact(q.dtype)) * _scale(q)
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
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:2], dtype=_exact(q.dtype))
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
    return {"scale": _scale(q), "window_size_left": left, "window_size_right": right}


PLAIN = PlainKernel()
CPU_FLASH = CpuFlashKernel()
CUDA_FLASH = CudaFlashKernel()


def kernel_for(device: torch.device, dtype: torch.dtype) -> Kernel:
    """The fastest kernel that computes ``dtype`` on ``device``; on "meta" a GPU's costs are counted."""
    if device.type == "cpu":
        return CPU_FLASH
    if device.type in ("cuda", "meta") and dtype in (torch.float16, torch.bfloat16):
        return CUDA_FLASH
    return PLAIN


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
            by_score = (weights * (by_weight - delta) * _scale(q)).to(q.dtype)[..., None]  # [N, Hq, 1]
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


def merged(
    out: torch.Tensor, lse: torch.Tensor, more: torch.Tensor, more_lse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two attentions of the same queries to different keys as one: out [n, Hq, D], lse [n, Hq]."""
    total = torch.logaddexp(lse, more_lse)
    share, rest = ((part - total).exp()[..., None].to(out.dtype) for part in (lse, more_lse))
    return out * share + more * rest, total


def _own_scores(q: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Scaled scores of each row with its own key, [N, Hq]."""
    products = _grouped(q, part) * _keys(part)  # [N, Hkv, G, D]
    return products.sum(dim=-1, dtype=_exact(q.dtype)).flatten(1) * _scale(q)


def _grouped(x: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """[N, Hq, *] -> [N, Hkv, G, *], a view: query head k * G + g belongs to key head k, as in vLLM."""
    return x.unflatten(1, (part.shape[1] // 2, -1))


def _keys(part: torch.Tensor) -> torch.Tensor:
    return part.chunk(2, dim=1)[0][:, :, None]  # [N, Hkv, 1, D]


def _values(part: torch.Tensor) -> torch.Tensor:
    return part.chunk(2, dim=1)[1][:, :, None]  # [N, Hkv, 1, D]


def _scale(q: torch.Tensor) -> float:
    return float(q.shape[-1] ** -0.5)


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
