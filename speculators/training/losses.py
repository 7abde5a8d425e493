"""What the draft is taught: to say what the verifier would say.

A loss maps the draft's and the verifier's logits over the draft vocabulary, each [R, Vd], to one
number a row [R].  Weighting of rows and steps is the loop's business, so that a new loss is one
function.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def forward_kl(logits: torch.Tensor, target_logits: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence from verifier p to draft q, at least in float32: [R].

    ``KL(p || q) = sum_v p_v (log p_v - log q_v)`` with ``p = softmax(target_logits)`` and
    ``q = softmax(logits)``.  Since ``d log q_v / d z_u = [u = v] - q_u`` and p sums to one,

        ``dKL/dz_u = -sum_v p_v ([u = v] - q_u) = q_u - p_u``:

    bounded, zero exactly when draft and verifier agree, and never asking for log p where p is 0.
    The direction matters: forward KL covers all that the verifier may say.  Restricted to the draft
    vocabulary, p is renormalised over it, so a row whose true token lies outside still teaches the
    ratios of the tokens inside.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    log_p = functional.log_softmax(target_logits.to(dtype), dim=-1)  # [R, Vd]
    log_q = functional.log_softmax(logits.to(dtype), dim=-1)  # [R, Vd]
    return functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)  # [R]
