"""The reference's own training command on a CPU: ``python command.py ARGUMENTS`` with its own arguments.

Runs in a process of its own, with the reference's package first on PYTHONPATH.  Everything is its own:
arguments and their defaults, data set, sampler, collation, draft, loss, optimisers, schedule, loop,
validation, checkpoints.  Its ``Trainer`` takes an accelerator for granted in two places, and these two are
all that is replaced: the device that it moves model and batches to (``get_local_rank``), and waiting for
that device before it looks at the clock.  Its autocast finds no CUDA and turns itself off, so it computes in
float32.
"""

from __future__ import annotations

import torch

from speculators.train import trainer
from speculators.train.cli import main
from speculators.train.config import TrainConfig

if __name__ == "__main__":
    trainer.get_local_rank = lambda: torch.device("cpu")
    torch.accelerator.synchronize = lambda *_: None
    main(TrainConfig.resolve())
