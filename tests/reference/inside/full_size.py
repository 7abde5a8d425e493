"""A full-size step of the reference on paper, in the reference's process.

Its trainer's way on one GPU: weights and optimiser in float32, bfloat16 under autocast, flex attention,
the fused loss.  The two kernels that only a GPU runs are stood in for by functions that return and
keep the same tensors; the count of hits, which has no size before its data are known (each waits for
the device), is left out.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from model import empty_model, forward
from paper import Figures, account
from torch._subclasses.fake_tensor import FakeTensorMode

from speculators.losses import fused
from speculators.models import attention
from speculators.models.eagle3 import core, metrics


class _Flex(torch.autograd.Function):
    """What flex attention keeps: its inputs, its output and one log-sum-exp a row."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(query)  # [1, heads, T, D]
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:3], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


class _NoKernel:
    """A Triton kernel that writes nothing: its caller allocates what it would write to."""

    def __getitem__(self, grid: Any) -> Any:
        return lambda *arguments, **options: None


def _no_hits(predicted: torch.Tensor, *_: Any) -> tuple[torch.Tensor, ...]:
    return tuple(predicted.new_zeros((), dtype=torch.float32) for _ in range(4))


#: What needs a GPU or data, and what stands in for it.
STAND_INS = [
    (attention, "flex_attention", lambda query, key, value, **_: _Flex.apply(query, key, value)),
    (core, "create_block_mask", lambda *_, **__: None),
    (core, "extend_mask_for_draft_tokens", lambda mask: mask),
    (fused, "loss_forward_kernel", _NoKernel()),
    (fused, "loss_backward_kernel", _NoKernel()),
    (metrics, "compute_accuracy_single_step", _no_hits),
]


def full_size(shape: dict[str, Any], tokens: int, steps: int) -> Figures:
    """The account of one optimiser step on a pack of ``tokens``; it does not depend on what is taught."""
    with ExitStack() as stack:
        for module, name, stand_in in STAND_INS:
            stack.enter_context(patch.object(module, name, stand_in))
        stack.enter_context(FakeTensorMode())
        model = empty_model(shape, "simple_flex_attention").train()
        hidden = shape["hidden_size"]
        rows = {
            "input_ids": torch.zeros(1, tokens, dtype=torch.int64),
            "hidden_states": torch.zeros(1, tokens, len(shape["aux_layers"]) * hidden, dtype=torch.bfloat16),
            "verifier_last_hidden_states": torch.zeros(1, tokens, hidden, dtype=torch.bfloat16),
            "loss_mask": torch.zeros(1, tokens, dtype=torch.bool),
            "position_ids": torch.zeros(1, tokens, dtype=torch.int64),
            "document_ids": torch.zeros(1, tokens, dtype=torch.int64),
        }
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(parameters)

        def step() -> None:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss, _ = forward(model, rows, steps, 1.0, loss="fused")
            optimiser.zero_grad()
            loss.backward()
            del loss
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()

        held = [*model.parameters(), *model.buffers(), *rows.values()]
        return account(held, [optimiser], step)
