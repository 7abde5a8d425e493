"""A recipe from its plan to its report.

What a stage is stands in its table row, whether it runs and why is the plan's business, how its output
is got ``build``'s, and where it runs the executor's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from speculators.benchmark.arms import NOBODY, Opponent
from speculators.benchmark.checks import OF_SETTINGS, broken, of_a_round
from speculators.checkpoint.config import localised
from speculators.documents import known_json, read_json, write_json
from speculators.errors import MACHINE_ERRNOS, SpeculatorsError, StageError, storage_error
from speculators.pipeline.build import build, require_whole
from speculators.pipeline.certificate import Ground, certify_first, kernels, refuse_engine, status_row
from speculators.pipeline.choice import Choice
from speculators.pipeline.console import Console
from speculators.pipeline.measure import INPUTS, forget_rounds, measure
from speculators.pipeline.plan import BENCHMARK, RUN, plan, stage_names
from speculators.pipeline.plan_text import table
from speculators.pipeline.preflight import check_engine_arguments, check_models, check_servers
from speculators.pipeline.premises import AS_SHIPPED, Wanted, settle
from speculators.pipeline.record import RunRecord, benchmark_seconds, copy_model
from speculators.pipeline.running import Run
from speculators.pipeline.store import Store, default_home
from speculators.recipe.recipe import Recipe
from speculators.report.document import write_report
from speculators.report.expectations import sentence
from speculators.stages.table import TRAINING, Stage, build_stages

#: Rules whose hint says already how to go on; the plain command would only fail again.
OWN_WAY_ON = ("damaged", "comparison", "not-comparable")


class Options(NamedTuple):
    """How a run is asked for.

    ``command``: what continues it, as a shell line; ``home``: instead of the user's, so that nothing of an
    earlier run is reused; ``against``: what the benchmark is held against.
    """

    runs_dir: Path
    choice: Choice = Choice()
    command: str = ""
    wanted: Wanted = AS_SHIPPED
    home: Path | None = None
    against: Opponent = NOBODY


def run_recipe(recipe: Recipe, options: Options, console: Console) -> dict[str, Any]:
    """Run ``recipe`` from the first missing output to its report; the run's record.

    Raises:
        MachineError: a package, an image, memory or disk is missing.
        RecipeError: the engine refuses a setting, an input is not as locked, or the choice fits no stage.
        StageError: a stage failed, or a stored output is damaged.
        KeyboardInterrupt: the run was interrupted; everything it started has ended.
    """
    home = options.home or default_home()
    choice = options.choice.bound(stage_names(recipe))
    premises = settle(
        recipe, options.wanted, roles(recipe, choice), home, lambda line: console.say("run", line)
    )
    store = Store(home)
    planned = plan(recipe, store, options.choice, premises.where, options.against)
    console.show(table(recipe.name, planned, benchmark_seconds(options.runs_dir, recipe.name)))
    check_models(recipe, makes_verifier=any((one.name, one.action) == ("verifier", RUN) for one in planned))
    if any(one.action == RUN for one in planned) or options.choice.includes(BENCHMARK):
        check_engine_arguments(recipe, home, premises.where, premises.executor)
    if options.choice.includes(BENCHMARK):
        check_servers(recipe, premises.executor)
    record = RunRecord(
        options.runs_dir,
        recipe,
        only=choice.only,
        anew=bool(choice.fresh or choice.start),
        say=lambda line: console.say("run", line),
    )
    record.rest_on(premises.record, premises.lock.text)
    premises.executor.label(record.id)
    run = Run(
        recipe,
        record,
        store,
        premises.executor,
        console,
        choice,
        options.command,
        premises.where,
        options.against,
    )
    console.say("run", f"{recipe.name} · {'continues ' if record.continued else ''}{record.folder}")
    with booked(run):
        to_run = {one.name for one in planned if one.action == RUN}
        trust_machine(run, home, [one for one in build_stages(recipe.data) if one.name in to_run])
        for stage in build_stages(recipe.data):
            if choice.needs(stage.name):
                run.outputs[stage.name] = build(run, stage)
        verdict = finish(run) if choice.includes(BENCHMARK) else f"stage '{choice.only}' is there"
        record.finish("ok", verdict=verdict)  # before the run's lock is given back
    return record.document


def roles(recipe: Recipe, choice: Choice) -> set[str]:
    """The roles of the stages that may run."""
    build = {stage.role for stage in build_stages(recipe.data) if choice.includes(stage.name)}
    return build | ({"engine", "bench"} if choice.includes(BENCHMARK) else set())


def trust_machine(run: Run, home: Path, stages: Sequence[Stage]) -> None:
    """Before anything is spent: does what ``stages`` rest on compute right on this machine's GPUs?

    Raises:
        SpeculatorsError: the question could not be asked, or the engine computes something else.
    """

    def say(line: str) -> None:
        run.console.say("certify", line)

    ground = Ground(run.executor, run.where, home, say, kernels(run.recipe))
    paths = certify_first(ground, run.recipe, stages)
    if not paths:
        return
    found = {name: known_json(path) for name, path in paths.items()}
    row = status_row(found)
    run.record.document["certificate"] = {
        "row": row,
        **{name: document["result"] for name, document in found.items()},
    }
    run.record.write()
    say(row)
    if "trainer" in paths:
        run.given[TRAINING.name] = {"certificate": [paths["trainer"]]}
    refuse_engine(found)


@contextmanager
def booked(run: Run) -> Iterator[None]:
    """Whatever ends the block early is in the record, and the way on is in the error."""
    try:
        yield
    except BaseException as error:
        run.record.fail(error)
        if isinstance(error, OSError) and error.errno in MACHINE_ERRNOS:
            raise storage_error(error, way_on(run.command)) from error
        if isinstance(error, SpeculatorsError) and error.rule not in OWN_WAY_ON:
            error.hint = "; ".join(filter(None, (error.hint, way_on(run.command))))
        raise
    finally:
        for lock in (run.record.lock, *run.locks.values()):
            lock.close()


def way_on(command: str) -> str:
    return f"finished work is kept; continue with: {command}" if command else ""


def finish(run: Run) -> str:
    """Publish the checkpoint, measure it and report; the verdict."""
    for name in INPUTS:
        if name in run.outputs:
            require_whole(run, name)
    if "package" in run.outputs:
        publish_model(run)
    measure(run)
    return report(run)


def report(run: Run) -> str:
    """Write the reports; the verdict.

    Raises:
        StageError: the arms cannot be compared; the reports say why.
    """
    bare = None if "package" in run.outputs else run.outputs["verifier"] / "model"
    document = write_report(run.record.folder, run.record.document, served=bare)
    place = run.record.folder / "report.html"
    summary = document["summary"]
    # Measured beside itself, the draft is the base, too; another base has a verdict of its own.
    beside = summary["base"]["checks"] if run.against.itself else []
    if failed := broken([*summary["checks"], *beside]):
        again = "keeps the sound rounds and measures the broken one again"
        if not of_a_round(failed):  # it lies in all of them
            forget_rounds(run)
            again = "measures again"
        by_setting = any(check["name"] in OF_SETTINGS for check in failed)
        way_out = (
            "change the setting that the check names, and measure again"
            if by_setting
            else f"the same command {again}: let the machine do nothing else meanwhile: {run.command}"
        )
        raise StageError(
            f"the comparison is broken: {'; '.join(check['detail'] for check in failed)}; see {place}",
            hint=f"nothing can be said of the speed; {way_out}",
            rule="comparison",
        )
    for row in document["expectations"]:
        run.console.say("report", sentence(row))
    run.console.say("report", str(place))
    return str(document["verdict"])


def publish_model(run: Run) -> None:
    """Put the checkpoint into the run folder with the verifier's path made local.

    The stored one names its verifier by a canonical id, which holds anywhere; the run's copy is
    what ``vllm serve`` takes as it is, here.
    """
    model = run.record.folder / "model"
    copy_model(run.outputs["package"] / "model", model)
    config = localised(read_json(model / "config.json"), run.outputs["verifier"] / "model")
    write_json(model / "config.json", config)
