"""One stage of a run: its finished output, found whole in the store or made into it."""

from __future__ import annotations

import shutil
from pathlib import Path

from speculators.documents import write_json
from speculators.errors import StageError
from speculators.pipeline.keys import forget_code, key_of
from speculators.pipeline.plan import (
    ACCEPT,
    RUN,
    StagePlan,
    damage_of,
    place_of,
    stage_files,
    stage_parts,
)
from speculators.pipeline.reasons import differences
from speculators.pipeline.running import HISTORY_FILES, Run, book, perform
from speculators.pipeline.sharing import locked_plan, patience, plan_now, share, try_lock
from speculators.pipeline.store import KEY_NAME
from speculators.stages.documents import OUTPUT_NAME, StageInput, read_output, seals
from speculators.stages.table import Stage, build_stages, select


def build(run: Run, stage: Stage) -> Path:
    """The finished output of ``stage``: reused when its key is in the store, else made now."""
    if plan_now(run, stage).action == RUN:
        for name in stage.inputs:
            if name in run.outputs:
                require_whole(run, name)
    planned = locked_plan(run, stage)
    if planned.action == RUN:
        refuse_damage(run, planned)
        output, action = make(run, stage, planned)
        share(run, planned)
    else:
        output, action = reuse(run, planned)
    reasons = [reason.text for reason in planned.reasons]
    book(run, planned.name, action, output, key=planned.key, reasons=reasons)
    return output


def reuse(run: Run, planned: StagePlan) -> tuple[Path, str]:
    """The output that stands for the plan's key, and what is said of it."""
    assert planned.output is not None
    if planned.action == ACCEPT:
        run.store.accept(planned.name, planned.key, planned.output)
        share(run, planned)
    run.store.mark_used(planned.output)
    action = "accepted" if planned.action == ACCEPT else "reused"
    run.console.say(planned.name, f"{action} {planned.key[:12]}")
    return planned.output, action


def make(run: Run, stage: Stage, planned: StagePlan) -> tuple[Path, str]:
    """The output, made by running the stage or adopted from an attempt that only lacked the renaming.

    Raises:
        StageError: the stage failed, or something that its key is made of changed while it ran.
    """
    for reason in planned.reasons[:1]:
        run.console.say(stage.name, f"to run: {reason.text}")
    if run.choice.reason_to_make(stage.name):
        run.store.discard_work(stage.name, planned.key)
        run.store.set_aside(stage.name, planned.key)
    folder = run.record.stage_folder(stage.name)
    write_json(folder / KEY_NAME, dict(planned.parts))
    inputs = {name: run.outputs[name] for name in stage.inputs if name in run.outputs}
    files = stage_files(run.recipe, stage) | run.given.get(stage.name, {})
    with run.store.filling(stage.name, planned.key) as partial:
        step = StageInput(stage.name, select(run.recipe.data, stage), inputs, files, partial)
        adopted = is_sealed(step)
        if adopted:
            run.console.say(stage.name, "adopted: an interrupted attempt had finished it")
        else:
            for name in HISTORY_FILES:
                (partial / name).unlink(missing_ok=True)
            perform(run, stage, step)
            refuse_change(run, stage, planned, partial)
        shutil.rmtree(step.work, ignore_errors=True)
        for name in HISTORY_FILES:  # after the output is sealed: how it was made is no part of what it is
            if (folder / name).is_file():
                shutil.copyfile(folder / name, partial / name)
    run.whole.add(stage.name)
    return run.store.path(stage.name, planned.key), "adopted" if adopted else "run"


def is_sealed(step: StageInput) -> bool:
    """Whether the folder to fill is already what this very step leaves, whole."""
    return not damage_of(step.output) and seals(read_output(step.output), step)


def refuse_change(run: Run, stage: Stage, planned: StagePlan, partial: Path) -> None:
    """Stop when code, packages or files changed while the stage ran: then nobody knows what it used.

    Raises:
        StageError: naming what changed.
    """
    forget_code()
    inputs = {name: run.outputs[name] for name in stage.inputs if name in run.outputs}
    now = stage_parts(run.recipe, stage, inputs, run.where)
    if key_of(now) != planned.key:
        (partial / OUTPUT_NAME).unlink(missing_ok=True)
        changed = differences(dict(planned.parts), now, place_of(run.recipe))
        raise StageError(
            f"stage '{stage.name}': {'; '.join(reason.text for reason in changed)}, while it ran",
            hint="its output belongs to neither state and is not kept",
            rule="changed-meanwhile",
        )


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
    run.outputs[name] = remake(run, stage)


def remake(run: Run, stage: Stage) -> Path:
    """Make a damaged output again.

    What this run holds together with others is let go meanwhile: two runs that each wait for an output
    that the other one uses would wait for ever.
    """
    others = list(run.locks.values())
    for held in others:
        held.release()
    planned = plan_now(run, stage)
    with patience(run, stage.name) as pause:
        while not try_lock(run, planned, alone=True):
            pause(planned.key)
    if damage_of(run.store.path(stage.name, planned.key)):  # nobody else has mended it meanwhile
        run.store.set_aside(stage.name, planned.key)
        make(run, stage, planned)
    share(run, planned)
    for held in others:
        held.take(alone=False)
    return run.store.path(stage.name, planned.key)


def refuse_damage(run: Run, planned: StagePlan) -> None:
    """Stop before a damaged output is made again, unless that is wished."""
    damage = [reason.text for reason in planned.reasons if reason.kind == "damaged"]
    if damage and not run.choice.remake:
        raise damaged(run, planned.name, damage[0])


def damaged(run: Run, name: str, text: str) -> StageError:
    hint = f"make it again with: {run.command} --remake-damaged" if run.command else ""
    return StageError(f"stage '{name}': {text}", hint=hint, rule="damaged")
