"""One stage of a run: its finished output, found whole in the store or made into it."""

from __future__ import annotations

import shutil
from pathlib import Path

from speculators.documents import write_json
from speculators.errors import StageError
from speculators.pipeline.plan import ACCEPT, RUN, StagePlan, damage_of, plan_stage
from speculators.pipeline.running import HISTORY_FILES, Run, book, perform
from speculators.pipeline.store import KEY_NAME, Lock
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
    with_lock(run, stage, planned.key, alone=False)
    planned = plan_now(run, stage)
    if planned.action == RUN:
        lock = with_lock(run, stage, planned.key, alone=True)
        planned = plan_now(run, stage)  # another run may have made it while this one waited
        if planned.action == RUN:
            refuse_damage(run, planned)
            output = make(run, stage, planned)
            lock.take(alone=False)
            book_planned(run, planned, "run", output)
            return output
        lock.take(alone=False)
    assert planned.output is not None
    if planned.action == ACCEPT:
        run.store.accept(stage.name, planned.key, planned.output)
    action = "accepted" if planned.action == ACCEPT else "reused"
    run.console.say(stage.name, f"{action} {planned.output.name[:12]}")
    book_planned(run, planned, action, planned.output)
    return planned.output


def plan_now(run: Run, stage: Stage) -> StagePlan:
    return plan_stage(run.recipe, stage, run.outputs, run.store, run.choice)


def with_lock(run: Run, stage: Stage, key: str, *, alone: bool) -> Lock:
    """The lock of one output, taken and held to the end of the run."""
    lock = run.store.lock(stage.name, key)
    run.locks.append(lock)
    lock.take(
        alone=alone,
        announce=lambda: run.console.say(stage.name, f"waiting for another run that uses {key[:12]}"),
    )
    return lock


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
    with_lock(run, stage, planned.key, alone=False).close()
    run.outputs[name] = make(run, stage, planned)


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
