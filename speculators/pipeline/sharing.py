"""Several runs at one store: what this run may rely on while others make and take away outputs.

A run holds the lock of every output that it uses to its own end, so nobody replaces one under it; it
holds the lock alone while it makes one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from speculators.pipeline.plan import REUSE, StagePlan, plan_stage
from speculators.pipeline.running import Run
from speculators.pipeline.store import Lock
from speculators.stages.table import Stage

WAIT_SECONDS = 0.5


def locked_plan(run: Run, stage: Stage) -> StagePlan:
    """The stage's plan, which the lock that goes with it has made sure of.

    Another run may make the output, or take it away, before the lock is ours: then the plan is another.
    So a lock is asked for again and again, never waited for.
    """
    with patience(run, stage.name) as pause:
        while True:
            planned = plan_now(run, stage)
            if not try_lock(run, planned, alone=planned.action != REUSE):
                pause(planned.key)
                continue
            again = plan_now(run, stage)
            if (again.action, again.key, again.output) == (planned.action, planned.key, planned.output):
                return again


@contextmanager
def patience(run: Run, name: str) -> Iterator[Callable[[str], None]]:
    """A pause that waits a moment for another run; said at its first use, and shown from then on."""
    with ExitStack() as shown:
        said = False

        def pause(key: str) -> None:
            nonlocal said
            if not said:
                run.console.say(name, f"waiting for another run that makes or uses {key[:12]}")
                shown.enter_context(run.console.working(name))
                said = True
            time.sleep(WAIT_SECONDS)

        yield pause


def plan_now(run: Run, stage: Stage) -> StagePlan:
    return plan_stage(run.recipe, stage, run.outputs, run.store, run.choice, run.where)


def try_lock(run: Run, planned: StagePlan, *, alone: bool) -> bool:
    """Hold the output's lock to the end of the run: alone to make it, else together with other users.

    What was accepted for another key has the lock of its own key as well.  False when another run is in
    the way.
    """
    place = run.store.path(planned.name, planned.key)
    if planned.output in (None, place):
        return lock_of(run, planned.name, place).try_take(alone=alone)
    target = lock_of(run, planned.name, planned.output)
    return lock_of(run, planned.name, place).try_take(alone=alone) and target.try_take(alone=False)


def lock_of(run: Run, stage: str, place: Path) -> Lock:
    """This run's one lock for a place in the store: a second one would wait for the first."""
    if place not in run.locks:
        run.locks[place] = run.store.lock(stage, place.name)
    return run.locks[place]


def share(run: Run, planned: StagePlan) -> None:
    """Let others use the output that this run held alone."""
    lock_of(run, planned.name, run.store.path(planned.name, planned.key)).take(alone=False)
