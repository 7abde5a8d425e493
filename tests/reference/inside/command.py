"""The reference's own training command on a CPU: ``python command.py ARGUMENTS`` with its own arguments.

Runs in a process of its own, with the reference's package first on PYTHONPATH.  Everything is its own:
arguments and their defaults, data set, sampler, collation, draft, loss, optimisers, schedule, loop,
validation, checkpoints.  Three things take an accelerator for granted, and these are all that is replaced:
the device that its ``Trainer`` moves model and batches to (``get_local_rank``), waiting for that device
before it looks at the clock, and the bfloat16 in which torch's Muon orthogonalises: a step took
27 s on a CPU that has to emulate it, so it is the same iteration in float32.  Its autocast finds no CUDA and
turns itself off, so it computes in float32.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import torch
from torch.optim import _muon

from speculators.train import trainer
from speculators.train.cli import main
from speculators.train.config import TrainConfig

#: By its file, because the package of that name is the reference's here.
MUON = Path(__file__).resolve().parents[3] / "speculators" / "training" / "muon.py"


if __name__ == "__main__":
    _muon._zeropower_via_newtonschulz = runpy.run_path(str(MUON))["orthogonal"]
    trainer.get_local_rank = lambda: torch.device("cpu")
    torch.accelerator.synchronize = lambda *_: None
    main(TrainConfig.resolve())
