"""What the reference's own checkpointer keeps of an optimiser, in the reference's process."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from case import Case
from model import build

from speculators.train import checkpointer

STEPS = 257  # the first whole number that bfloat16's eight bits of precision cannot hold


def resumed(case: str) -> dict[str, Any]:
    """Save after ``STEPS`` optimiser steps, load again: step counters, and how far weights moved.

    ``moved``: the largest change of a trained tensor by saving and loading, relative to its norm;
    ``moment``: the same of the optimiser's second moments.
    """
    checkpointer.get_current_device = lambda: "cpu"  # its default is a CUDA device
    model = build(Case.read(Path(case)), "sdpa")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3)
    torch.manual_seed(0)
    for _ in range(STEPS):
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        optimiser.step()
    before = [parameter.detach().clone() for parameter in parameters]
    moments = [optimiser.state[parameter]["exp_avg_sq"].clone() for parameter in parameters]
    with tempfile.TemporaryDirectory() as folder:
        checkpointer.SingleGPUCheckpointer(folder).save_checkpoint(model, optimiser, 0)
        again = checkpointer.SingleGPUCheckpointer(folder)
        again.load_model_state_dict(model, torch.float32)
        again.load_optimizer_state_dict(model, optimiser, torch.float32)
    state = [optimiser.state[parameter] for parameter in parameters]
    return {
        "steps": STEPS,
        "counters": sorted({float(one["step"]) for one in state}),
        "moved": max(_distance(now, old) for now, old in zip(parameters, before)),
        "moment": max(_distance(one["exp_avg_sq"], old) for one, old in zip(state, moments)),
    }


def _distance(now: torch.Tensor, before: torch.Tensor) -> float:
    return ((now - before).norm() / before.norm()).item()
