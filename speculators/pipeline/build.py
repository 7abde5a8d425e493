"""One stage of a run: its finished output, found whole in the store or made into it."""

from __future__ import annotations

import shutil
from pathlib import Path

from speculators.documents import write_json
from speculators.errors import StageError
from speculators.pipeline.plan import ACCEPT, RUN, StagePlan, damage_of, plan_stage
from speculators.pipeline.running import HISTORY_FILES, Run, book, perform
from speculators.pipeline.store import KEY_NAME
from speculators.stages.documents import StageInput
from speculators.stages.table import Stage, build_stages


def build(run: Run, stage: Stage) -> Path:
    """The finished output of ``stage``: reused when its key is in the store, else made now."""
    planned = plan_now(run, stage)
    if planned.action == RUN:
        for name in stage.inputs:
            if name in run.outputs:
                require_whole(run, name)
        planned = plan_now(run, stage)  # a damaged input that was made again may differ
    planned = locked_plan(run, stage)
    if planned.action == RUN:
        refuse_damage(run, planned)
        output, action = make(run, stage, planned), "run"
        lock(run, planned, alone=False)
    else:
        output, action = reuse(run, planned)
    book_planned(run, planned, action, output)
    return output


def reuse(run: Run, planned: StagePlan) -> tuple[Path, str]:
    """The output that stands for the plan's key, and what is said of it."""
    assert planned.output is not None
    if planned.action == ACCEPT:
        run.store.accept(planned.name, planned.key, planned.output)
    action = "accepted" if planned.action == ACCEPT else "reused"
    run.console.say(planned.name, f"{action} {planned.output.name[:12]}")
    return planned.output, action


def locked_plan(run: Run, stage: Stage) -> StagePlan:
    """The stage's plan, which the lock that goes with it has made sure of.

    Another run may make the output, or take it away, before the lock is ours: then the plan is another.
    """
    while True:
        planned = plan_now(run, stage)
        lock(run, planned, alone=planned.action == RUN)
        if (again := plan_now(run, stage)).action == planned.action:
            return again


def plan_now(run: Run, stage: Stage) -> StagePlan:
    return plan_stage(run.recipe, stage, run.outputs, run.store, run.choice)


def lock(run: Run, planned: StagePlan, *, alone: bool) -> None:
    """Hold the output's lock to the end of the run: alone to make it, else together with other users."""
    place = run.store.path(planned.name, planned.key)
    if place not in run.locks:
        # One file a place: a second one would wait for the first.
        run.locks[place] = run.store.lock(planned.name, planned.key)

    def announce() -> None:
        run.console.say(planned.name, f"waiting for another run that works on {planned.key[:12]}")

    run.locks[place].take(alone=alone, announce=announce)


def make(run: Run, stage: Stage, planned: StagePlan) -> Path:
    """Run the stage into the store."""
    for reason in planned.reasons[:1]:
        run.console.say(stage.name, f"to run: {reason.text}")
    if run.choice.reason_to_make(stage.name):
        run.store.discard_work(stage.name, planned.key)
    folder = run.record.stage_folder(stage.name)
    write_json(folder / KEY_NAME, planned.parts)
    inputs = {name: run.outputs[name] for name in stage.inputs if name in run.outputs}
    files = {name: paths for name, paths in run.recipe.files().items() if name in stage.files}
    with run.store.filling(stage.name, planned.key) as partial:
        step = StageInput(stage.name, planned.parts["values"], inputs, files, partial)
        if damage_of(partial):  # else only the renaming is missing
            perform(run, stage, step)
        for name in HISTORY_FILES:  # after the output is sealed: how it was made is no part of what it is
            if (folder / name).is_file():
                shutil.copyfile(folder / name, partial / name)
    run.whole.add(stage.name)
    return run.store.path(stage.name, planned.key)


def require_whole(run: Run, name: str) -> None:
    """Compare the output of stage ``name`` with its digests, once a run; make it again if that is wished.

    Raises:
        StageError: it is damaged.
    """
    if name in run.whole:
        return
    run.whole.add(name)
    if not (damage := damage_of(run.outputs[name])):
        return
    if not run.choice.remake:
        raise damaged(run, name, f"{run.outputs[name]}: {damage}")
    run.console.say(name, f"damaged: {damage}")
    stage = next(one for one in build_stages(run.recipe.data) if one.name == name)
    for needed in stage.inputs:
        if needed in run.outputs:
            require_whole(run, needed)
    planned = plan_now(run, stage)
    lock(run, planned, alone=True)
    run.outputs[name] = make(run, stage, planned)
    lock(run, planned, alone=False)


def refuse_damage(run: Run, planned: StagePlan) -> None:
    """Stop before a damaged output is made again, unless that is wished."""
    damage = [reason.text for reason in planned.reasons if reason.kind == "damaged"]
    if damage and not run.choice.remake:
        raise damaged(run, planned.name, damage[0])


def damaged(run: Run, name: str, text: str) -> StageError:
    hint = f"make it again with: {run.command} --remake-damaged" if run.command else ""
    return StageError(f"stage '{name}': {text}", hint=hint, rule="damaged")


def book_planned(run: Run, planned: StagePlan, action: str, output: Path) -> None:
    """Book a stage with its key and why it ran."""
    reasons = [reason.text for reason in planned.reasons]
    book(run, planned.name, action, output, key=planned.key, reasons=reasons)
