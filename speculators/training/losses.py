"""What the draft is taught: to say what the verifier would say.

A loss compares two distributions over the draft vocabulary, the verifier's p = softmax(y) and the
draft's q = softmax(z), and says one number a row.  Each is written twice: as the plain formula, which
autograd could differentiate (the oracle does), and together with its gradient with respect to z,
which the trainer computes in the forward pass, a chunk at a time, so that no logits are ever kept
(``training.chunked``).  A new loss is one class and one row of ``LOSSES``.

**All gradients come from one line.**  Since ``d log q_v / d z_u = [u = v] - q_u``, a divergence D
with partial derivatives ``b_v = dD / d log q_v`` has

    dD/dz_u = b_u - q_u sum_v b_v.

Restricted to the draft vocabulary p is renormalised over it: a row whose true token lies outside
still teaches the ratios of the tokens inside.

Weighting of rows and steps is not a loss's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch


@dataclass(frozen=True)
class Compared:
    """Both distributions of rows, at least in float32; p is shared by all drafts of a row.

    Each is as large as the logits and costs a pass over them: one that no loss reads is never made.
    """

    z: torch.Tensor  # the draft's logits [..., R, Vd]
    y: torch.Tensor  # the verifier's [R, Vd]

    @classmethod
    def of(cls, logits: torch.Tensor, opinions: torch.Tensor) -> Compared:
        """Of the draft's logits [..., R, Vd] and the verifier's [R, Vd]."""
        return cls(_exact(logits), _exact(opinions))

    @cached_property
    def p(self) -> torch.Tensor:
        """[R, Vd]"""
        return self.y.softmax(dim=-1)

    @cached_property
    def q(self) -> torch.Tensor:
        """[..., R, Vd]"""
        return self.z.softmax(dim=-1)

    @cached_property
    def log_p(self) -> torch.Tensor:
        """[R, Vd]"""
        return self.y.log_softmax(dim=-1)

    @cached_property
    def log_q(self) -> torch.Tensor:
        """[..., R, Vd]"""
        return self.z.log_softmax(dim=-1)

    @cached_property
    def expected_log_q(self) -> torch.Tensor:
        """``sum_v p_v log q_v = p . z - log sum_v exp z_v``, [..., R], without making log q.

        The last term is ``max z - log max q``: q is made already, or will be, and has no smaller
        entry than 1 / Vd there.
        """
        said = torch.einsum("rv,...rv->...r", self.p, self.z)
        return said - self.z.amax(dim=-1) + self.q.amax(dim=-1).log()


class Loss(Protocol):
    """One divergence of q from p."""

    def value(self, rows: Compared) -> torch.Tensor:
        """The divergence of each row, [..., R], differentiable in log_q and q."""
        ...

    def gradient(self, rows: Compared, value: torch.Tensor) -> torch.Tensor:
        """Its gradient with respect to the draft's logits, [..., R, Vd]; ``value`` as above."""
        ...


class ForwardKl:
    """``KL(p || q) = sum_v p_v (log p_v - log q_v)``: covers all that the verifier may say.

    Here ``b_v = -p_v`` and p sums to one, so ``dD/dz = q - p``: bounded, zero exactly when draft and
    verifier agree, and never asking for log p where p is 0 (``p log p`` is 0 there).
    """

    def value(self, rows: Compared) -> torch.Tensor:
        return _expected(rows.p, rows.log_p) - rows.expected_log_q

    def gradient(self, rows: Compared, value: torch.Tensor) -> torch.Tensor:
        return rows.q - rows.p


class ReverseKl:
    """``KL(q || p) = sum_v q_v (log q_v - log p_v)``: says nothing that the verifier would not.

    ``b_v = q_v (log q_v - log p_v + 1)`` sums to D + 1, so ``dD/dz_u = q_u (log q_u - log p_u - D)``.
    """

    def value(self, rows: Compared) -> torch.Tensor:
        return _expected(rows.q, rows.log_q - rows.log_p)

    def gradient(self, rows: Compared, value: torch.Tensor) -> torch.Tensor:
        return rows.q * (rows.log_q - rows.log_p - value[..., None])


class JensenShannon:
    """``(KL(p || m) + KL(q || m)) / 2`` with m = (p + q) / 2: symmetric, at most log 2.

    The derivative through m vanishes (``sum_v (p_v + q_v)/2 - m_v = 0`` term by term), which leaves
    ``b_v = q_v (log q_v - log m_v) / 2``; its sum is ``KL(q || m) / 2``, so
    ``dD/dz_u = q_u (log q_u - log m_u - KL(q || m)) / 2``.
    """

    def value(self, rows: Compared) -> torch.Tensor:
        log_m = self._log_middle(rows)
        past = _expected(rows.p, rows.log_p - log_m)
        return (past + _expected(rows.q, rows.log_q - log_m)) / 2

    def gradient(self, rows: Compared, value: torch.Tensor) -> torch.Tensor:
        surprise = rows.log_q - self._log_middle(rows)
        return rows.q * (surprise - _expected(rows.q, surprise)[..., None]) / 2

    @staticmethod
    def _log_middle(rows: Compared) -> torch.Tensor:
        return torch.logaddexp(rows.log_p, rows.log_q) - 0.6931471805599453  # log 2


class CrossEntropy:
    """``-log q`` of the verifier's greedy token: what greedy serving asks, and nothing else.

    ``b_v = -[v = argmax p]``, so ``dD/dz = q - [v = argmax p]``.
    """

    def value(self, rows: Compared) -> torch.Tensor:
        greedy = rows.log_p.argmax(dim=-1, keepdim=True)  # [R, 1]
        shape = (*rows.log_q.shape[:-1], 1)
        return -rows.log_q.gather(-1, greedy.expand(shape)).squeeze(-1)

    def gradient(self, rows: Compared, value: torch.Tensor) -> torch.Tensor:
        greedy = rows.log_p.argmax(dim=-1, keepdim=True)  # [R, 1]
        spoken = torch.zeros_like(rows.p).scatter_(-1, greedy, 1.0)  # [R, Vd]
        return rows.q - spoken


class TotalVariation:
    """``sum_v |p_v - q_v| / 2``: the chance that a sampled guess is rejected (Leviathan et al.,
    arXiv 2211.17192), exactly where the draft's vocabulary is the verifier's.  Over a smaller one p is
    renormalised, and what the verifier says outside it is rejected besides.

    ``D = sum_v max(q_v - p_v, 0)``, so ``b_v = q_v [q_v > p_v]`` and
    ``dD/dz_u = q_u ([q_u > p_u] - sum_v q_v [q_v > p_v])``.
    """

    def value(self, rows: Compared) -> torch.Tensor:
        return (rows.q - rows.p).clamp(min=0).sum(dim=-1)

    def gradient(self, rows: Compared, value: torch.Tensor) -> torch.Tensor:
        over = (rows.q > rows.p).to(rows.q.dtype)
        return rows.q * (over - _expected(rows.q, over)[..., None])


LOSSES: dict[str, Loss] = {
    "forward_kl": ForwardKl(),
    "reverse_kl": ReverseKl(),
    "jensen_shannon": JensenShannon(),
    "cross_entropy": CrossEntropy(),
    "total_variation": TotalVariation(),
}


class WeightedSum:
    """Losses added up by weight; of one loss with weight one it is that loss."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.terms = [(LOSSES[name], weight) for name, weight in weights.items()]

    def value(self, rows: Compared) -> torch.Tensor:
        """The weighted divergence of each row, [..., R]."""
        return _sum([weight * loss.value(rows) for loss, weight in self.terms])

    def with_gradient(self, rows: Compared) -> tuple[torch.Tensor, torch.Tensor]:
        """The divergence of each row [..., R], and its gradient [..., R, Vd]."""
        values = [loss.value(rows) for loss, _ in self.terms]
        value = _sum([weight * one for one, (_, weight) in zip(values, self.terms)])
        gradients = [
            loss.gradient(rows, one) if weight == 1 else loss.gradient(rows, one).mul_(weight)
            for one, (loss, weight) in zip(values, self.terms)
        ]
        return value, _sum(gradients)


def _sum(parts: list[torch.Tensor]) -> torch.Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _expected(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """``sum_v weights_v values_v``, [..., R]; logs of finite logits are finite, so no 0 meets infinity."""
    return torch.linalg.vecdot(weights, values)


def _exact(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
