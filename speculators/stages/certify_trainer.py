"""Stage ``certify_trainer``: does the trainer compute on this machine's devices what it should?

No stage of a recipe: it is run before the first training on a new kind of GPU, and by
``speculators certify``.
"""

from __future__ import annotations

import os
import time
from typing import Any

import torch

from speculators.errors import MachineError, StageError
from speculators.stages.documents import StageInput
from speculators.training.launch import launch
from speculators.training.parallel import KINDS
from speculators.training.ranks import ALONE, joined, local_device
from speculators.training.self_check import (
    STEPS,
    Check,
    failed,
    fast_against_oracle,
    learned,
    ranks_against_one,
)

#: More ranks find nothing that these do not.
MOST_RANKS = 4
CPU_RANKS = 2


def run(step: StageInput) -> dict[str, Any]:
    """The checks, and what a training may rest on: ``objective`` and ``parallelism``."""
    started, device = time.monotonic(), chosen_device(step.values["device"])
    checks = []
    for check in fast_against_oracle(device):
        tell(check)
        checks.append(check)
    fast = all(check.ok for check in checks)
    count = min(torch.cuda.device_count(), MOST_RANKS) if device.type == "cuda" else CPU_RANKS
    together = ranks_checks(step, device, count) if count > 1 else {}
    for check in together.values():
        tell(check)
    return {
        "device": device.type,
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "count": torch.cuda.device_count() if device.type == "cuda" else 1,
        "checks": [check.document() for check in (*checks, *together.values())],
        "not_checked": [] if count > 1 else [f"{STEPS} steps on several ranks: there is one device"],
        "objective": "fast" if fast else "oracle",
        "parallelism": [kind for kind, check in together.items() if check.ok],
        "seconds": time.monotonic() - started,
    }


def chosen_device(wanted: str) -> torch.device:
    """The device that was asked for: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        MachineError: there is no GPU, or torch cannot use it.
    """
    if wanted == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for this process, before it looks, and for all of its ranks
    device = local_device()
    if wanted == "cuda" and device.type != "cuda":
        raise MachineError(
            f"torch {torch.__version__} finds no CUDA device",
            hint="see `speculators doctor`; or certify the CPU with --device cpu",
            rule="no-gpu",
        )
    return device


def ranks_checks(step: StageInput, device: torch.device, count: int) -> dict[str, Check]:
    """For each way of holding the draft: whether ``count`` ranks learn what one does."""
    alone = learned(ALONE, "ddp", device)
    names = {kind: f"{STEPS} steps on {count} ranks against one, {kind}" for kind in KINDS}
    try:
        found = launch(learn_in_rank, None, count, step.work)
    except (StageError, RuntimeError) as error:  # a collective that is not there, or hangs no more
        return {kind: failed(name, str(error)) for kind, name in names.items()}
    return {kind: ranks_against_one(alone, found[kind], name) for kind, name in names.items()}


def learn_in_rank(_: None) -> dict[str, Any]:
    """What one of several ranks learns, in each way of holding the draft."""
    device = local_device()
    with joined(device) as ranks:
        return {kind: learned(ranks, kind, device) for kind in KINDS}


def tell(check: Check) -> None:
    verdict = "ok" if check.ok else "MISMATCH"
    print(
        f"{check.name}: {check.cause or f'{check.error:.2g}'} (at most {check.bound:g}) {verdict}", flush=True
    )
