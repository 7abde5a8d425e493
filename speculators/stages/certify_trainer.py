"""Stage ``certify_trainer``: does the trainer compute on this machine's devices what it should?

No stage of a recipe: it is run before the first training on a new kind of GPU, and by
``speculators certify``.

A kernel may fault, which spoils its process for all that follows, end it, or hang.  So every question is
asked in processes of its own, each with a deadline: what does not answer has failed, and nothing else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from speculators.errors import MachineError, StageError
from speculators.stages.documents import StageInput
from speculators.training.launch import launch
from speculators.training.parallel import KINDS
from speculators.training.ranks import joined, local_device
from speculators.training.self_check import (
    BOUNDS,
    STEPS,
    Check,
    failed,
    fast_against_oracle,
    fast_names,
    learned,
    ranks_against_one,
    read_check,
)

#: More ranks find nothing that these do not.
MOST_RANKS = 4
CPU_RANKS = 2
#: For all questions, and for one: broken links between GPUs hang, and the engine's part comes after.
ALL_SECONDS = 90.0
ANSWER_SECONDS = 60.0
#: Runs a function in so many processes.
Ask = Callable[[Callable[[Any], dict[str, Any]], Any, int], dict[str, Any]]


class Fast(NamedTuple):
    """What the fast path in one precision was found to be; ``name``: of the device, as far as it answered."""

    checks: list[Check]
    name: str = ""

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)


def run(step: StageInput) -> dict[str, Any]:
    """The checks, and what a training may rest on.

    ``objective``: by precision, ``fast`` or ``oracle``; ``parallelism``: by way of holding the draft, whether
    several ranks learned what one does, and nothing of what was not asked.
    """
    started, device = time.monotonic(), chosen_device(step.values["device"])
    ask = partial(asked, step, started + ALL_SECONDS)
    fast = {precision: fast_checks(ask, precision) for precision in BOUNDS}
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    count = min(gpus, MOST_RANKS) if gpus else CPU_RANKS
    together = ranks_checks(ask, count) if count > 1 else {}
    checks = [check for found in fast.values() for check in found.checks] + list(together.values())
    return {
        "device": device.type,
        "name": next((found.name for found in fast.values() if found.name), ""),
        "count": gpus or 1,
        "checks": [check.document() for check in checks],
        "not_checked": [] if count > 1 else [f"{STEPS} steps on several ranks: there is one device"],
        "objective": {precision: "fast" if found.ok else "oracle" for precision, found in fast.items()},
        "parallelism": {kind: check.ok for kind, check in together.items()},
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


def asked(
    step: StageInput, deadline: float, entry: Callable[[Any], dict[str, Any]], argument: Any, count: int
) -> dict[str, Any]:
    """What ``count`` processes answer in the time that is left.

    Raises:
        StageError: they ended without an answer, or did not end.
        RuntimeError: with the traceback of one that failed.
    """
    return launch(
        entry, argument, count, step.work, max(0.0, min(ANSWER_SECONDS, deadline - time.monotonic()))
    )


def fast_checks(ask: Ask, precision: str) -> Fast:
    """Whether the fast path equals its oracle in ``precision``."""
    try:
        answer = ask(fast_in_process, precision, 1)
    except (StageError, RuntimeError) as error:
        bound = BOUNDS[precision]
        return Fast([tell(failed(name, str(error), bound)) for name in fast_names(precision).values()])
    return Fast([read_check(document) for document in answer["checks"]], answer["name"])


def fast_in_process(precision: str) -> dict[str, Any]:
    """The checks of one precision, told as they come, and the device's name."""
    device = local_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    checks = [tell(check).document() for check in fast_against_oracle(precision, device)]
    return {"checks": checks, "name": name}


def ranks_checks(ask: Ask, count: int) -> dict[str, Check]:
    """For each way of holding the draft: whether ``count`` ranks learn what one does."""
    names = {kind: f"{STEPS} steps on {count} ranks against one, {kind}" for kind in KINDS}
    try:
        alone = ask(learn_in_rank, list(KINDS)[:1], 1)
        found = ask(learn_in_rank, list(KINDS), count)
    except (StageError, RuntimeError) as error:  # a collective that is not there, or hangs
        return {kind: tell(failed(name, str(error))) for kind, name in names.items()}
    (one,) = alone.values()
    return {kind: tell(ranks_against_one(one, found[kind], name)) for kind, name in names.items()}


def learn_in_rank(kinds: Sequence[str]) -> dict[str, Any]:
    """What one of several ranks learns, in each of these ways of holding the draft."""
    device = local_device()
    with joined(device) as ranks:
        return {kind: learned(ranks, kind, device) for kind in kinds}


def tell(check: Check) -> Check:
    verdict = "ok" if check.ok else "MISMATCH"
    print(
        f"{check.name}: {check.cause or f'{check.error:.2g}'} (at most {check.bound:g}) {verdict}", flush=True
    )
    return check
