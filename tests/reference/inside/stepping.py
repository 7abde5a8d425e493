"""The reference's optimiser step, timed, in the reference's process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import measure
import torch
from case import Case
from model import build, forward, shifted


class Trainer:
    """The reference's draft and optimiser between requests.

    The step is that of its trainer's ``train_epoch``: forward, backward, clipping at 1, AdamW; with
    this project's betas and without decay, so that both sides walk the same way.
    """

    def prepare(self, case: str, attention: str, rate: float, betas: list[float]) -> dict[str, Any]:
        """Build the case's draft; returns the bytes of the process without it."""
        measure.warm_up()
        bare = measure.resident()
        self.case = Case.read(Path(case))
        self.model = build(self.case, attention)
        # Built, the case's tensors are the model's; two copies would be charged to the step.
        self.case = self.case._replace(draft={}, verifier={}, batch={})
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=rate, betas=tuple(betas), weight_decay=0.0)
        return {"bare": bare}

    def step(self, case: str) -> dict[str, Any]:
        """One optimiser step on the batch of ``case``: its seconds, loss and peak."""
        rows = shifted(Case.read(Path(case)).batch)
        with measure.Cost() as cost:
            loss, _ = forward(self.model, rows, self.case.steps, self.case.step_decay)
            self.optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimiser.step()
            value = loss.item()
        return {**cost.document(), "loss": value}
