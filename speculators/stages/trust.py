"""What a training may rest on where it runs, by what the machine was found to compute right.

The questions are asked by ``certify_trainer``; here their answers decide how a draft is trained: by the fast
objective or its oracle, on several devices or on one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from speculators.documents import read_json
from speculators.errors import MachineError
from speculators.stages.documents import StageInput
from speculators.training.architectures import Implementation
from speculators.training.loop import DTYPES, TrainingOptions
from speculators.training.objective import Objective, Teaching
from speculators.training.parallel import KINDS

#: The precision that is left where the recipe's is not computed right.
SINGLE = "float32"
ASK_AGAIN = "`speculators certify RECIPE --fresh` asks again"

Say = Callable[[str], None]


def certificate(step: StageInput) -> dict[str, Any]:
    """What this machine was found to compute right; everything where nobody had to ask."""
    if not (files := step.files.get("certificate")):
        return {
            "objective": dict.fromkeys(DTYPES, "fast"),
            "parallelism": dict.fromkeys(KINDS, True),
            "checks": [],
        }
    result: dict[str, Any] = read_json(files[0])["result"]
    return result


def doubt_of(trusted: dict[str, Any], parallelism: str) -> str:
    """Why several devices should not hold the draft in this way; empty where nothing speaks against it."""
    if parallelism not in trusted["parallelism"]:
        return f"whether several of them learn what one does ({parallelism}) was not asked here; {ASK_AGAIN}"
    learn = trusted["parallelism"][parallelism]
    return "" if learn else f"several of them were not found to learn here what one does ({parallelism})"


def judge_torchrun(trusted: dict[str, Any], parallelism: str, count: int, leads: bool) -> None:
    """Of ``count`` processes that somebody started by hand: whether they may train together.

    Raises:
        MachineError: they were found to learn something else than one.
    """
    if count == 1 or not (doubt := doubt_of(trusted, parallelism)):
        return
    if trusted["parallelism"].get(parallelism) is False:
        others = [f"training.parallelism: {kind}" for kind, learn in trusted["parallelism"].items() if learn]
        raise MachineError(
            f"torchrun started {count} processes on this machine's devices: {doubt}",
            hint=f"{' or '.join(['start one process', *others])}; {ASK_AGAIN}",
            rule="ranks-differ",
        )
    if leads:
        print(f"torchrun started {count} processes on this machine's devices: {doubt}", flush=True)


class Way(NamedTuple):
    """How this machine trains: by which objective, taught what, and which of its checks did not hold."""

    objective: type[Objective]
    teaching: Teaching
    mismatches: list[str]


def chosen_way(
    implementation: Implementation,
    trusted: dict[str, Any],
    options: TrainingOptions,
    say: Say,
) -> Way:
    """The recipe's way where the machine computes it right in its precision; else a slower one, in single.

    The same objective where that holds, its oracle where neither does.  Objectives without an oracle are
    written in plain torch.
    """
    teaching, wrong = options.teaching, [check["name"] for check in trusted["checks"] if not check["ok"]]
    fast = {precision for precision, way in trusted["objective"].items() if way == "fast"}
    if options.precision in fast:
        return Way(implementation.objective, teaching, wrong)
    slow, name = implementation.objective, "plain torch, which has no oracle to be checked by, in float32"
    if implementation.oracle and SINGLE in fast:
        name = "the same objective in float32"
    elif implementation.oracle:
        slow, name = implementation.oracle, "the slow oracle in float32"
    say(f"not trusted on this machine: {', '.join(wrong)}; training by {name}")
    return Way(slow, teaching._replace(dtype=DTYPES[SINGLE]), wrong)
