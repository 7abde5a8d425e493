"""This project's sides of the training benchmark: the fast trainer, its oracle, and what lies between.

Run as a program it is one side's process: it answers ``train_step.py`` over a pipe.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Below the path, because a checkout need not be installed.
from speculators.models import unroll  # noqa: E402
from speculators.models.kernels import PLAIN  # noqa: E402
from speculators.training.asked import Asked, ask  # noqa: E402
from speculators.training.objective import Objective  # noqa: E402
from speculators.training.optimiser import Optimiser  # noqa: E402
from speculators.training.packing import PackedSequence  # noqa: E402
from speculators.training.step import Share, backward, optimiser_step  # noqa: E402
from speculators.training.ttt import DenseTrainTimeTest, TrainTimeTest  # noqa: E402
from tests.reference.cases import sequence  # noqa: E402
from tests.reference.inside import measure, pipe  # noqa: E402
from tests.reference.inside.case import Case  # noqa: E402
from tests.reference.ours import bound  # noqa: E402

NEVER = 2.0  # more than all rows


class EveryRow(TrainTimeTest):
    """Without row sets: every row runs at every step."""

    ask = DenseTrainTimeTest.ask


class ChosenRows(TrainTimeTest):
    """With row sets even where nearly all rows are asked: ``EveryRow`` beside it says where that pays."""

    def ask(self, sequence: PackedSequence, positions: int) -> Asked:
        return ask(sequence, positions, dense_from=NEVER)


class EveryLogit(TrainTimeTest):
    """Without chunks: all logits are kept, and autograd finds their gradient."""

    backward = DenseTrainTimeTest.backward


class PlainAttention(TrainTimeTest):
    """Without flash attention: scores are written out, a block at a time."""

    def unroll(self, *arguments: Any) -> list[torch.Tensor]:
        fast, unroll.kernel_for = unroll.kernel_for, lambda *_: PLAIN
        try:
            return super().unroll(*arguments)
        finally:
            unroll.kernel_for = fast


class DenseDraft(TrainTimeTest):
    """The oracle's draft with the chunked loss: no row sets, no flash, no shared or joined products."""

    ask = DenseTrainTimeTest.ask
    unroll = DenseTrainTimeTest.unroll


#: What ``--sides`` may name beside the reference: the fast trainer, single savings turned off, none at all.
OURS: dict[str, type[Objective]] = {
    "fast": TrainTimeTest,
    "chosen-rows": ChosenRows,
    "every-row": EveryRow,
    "every-logit": EveryLogit,
    "plain-attention": PlainAttention,
    "dense-draft": DenseDraft,
    "oracle": DenseTrainTimeTest,
}


class Trainer:
    """Objective and optimiser between requests; ``tests/reference/inside/stepping.py`` is its twin."""

    def prepare(self, case: str, side: str, rate: float, optimizer: str) -> dict[str, Any]:
        """Bind the side to the case's weights; returns the bytes of the process without them."""
        measure.warm_up()
        bare = measure.resident()
        self.rate = rate
        self.objective = bound(Case.read(Path(case)), OURS[side], torch.float32)
        self.optimiser = Optimiser(self.objective.draft, optimizer, weight_decay=0.0)
        return {"bare": bare}

    def step(self, case: str) -> dict[str, Any]:
        """One optimiser step on the batch of ``case``: its seconds, loss and peak.

        The choice of rows is the loader's work, but on a CPU it takes the same cores: it is timed too.
        """
        packed = sequence(Case.read(Path(case)).batch)
        with measure.Cost() as cost:
            batch = self.objective.batch(packed, torch.Generator().manual_seed(0))
            result, _ = optimiser_step(self.objective, Share.of([batch]), self.optimiser, self.rate, 1.0)
        return {**cost.document(), "loss": result.loss}

    def products(self, case: str) -> dict[str, Any]:
        """The matrix products of one step; weights stay as they are."""
        batch = self.objective.batch(sequence(Case.read(Path(case)).batch), torch.Generator().manual_seed(0))
        with measure.Products() as products:
            backward(self.objective, Share.of([batch]))
        self.optimiser.zero_grad()
        return {"products": products.document()}

    def profile(self, case: str, rows: int) -> dict[str, Any]:
        """Where one step's time goes: a table of the ``rows`` dearest operators."""
        self.step(case)
        with torch.profiler.profile(record_shapes=True) as profiler:
            self.step(case)
        averages = profiler.key_averages(group_by_input_shape=True)
        return {"table": averages.table(sort_by="self_cpu_time_total", row_limit=rows)}


if __name__ == "__main__":
    TRAINER = Trainer()
    pipe.answer_all(
        {
            "prepare": TRAINER.prepare,
            "step": TRAINER.step,
            "products": TRAINER.products,
            "profile": TRAINER.profile,
            "replay": measure.replay,
        }
    )
