"""What a run would do and why, without doing it.

``run`` walks the same function stage by stage, with the real inputs in hand, so the table that it
prints first and what it then does cannot disagree.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from speculators.benchmark.arms import NOBODY, Opponent
from speculators.benchmark.rounds import FREE_ARMS, arms_asked
from speculators.documents import value_digest
from speculators.errors import RecipeError, StageError
from speculators.pipeline.choice import Choice
from speculators.pipeline.keys import key_of, key_parts
from speculators.pipeline.reasons import Place, Reason, differences, distance
from speculators.pipeline.store import Kept, Store
from speculators.pipeline.surroundings import HERE, Surroundings
from speculators.recipe.positions import split_path
from speculators.recipe.recipe import Recipe
from speculators.recipe.view import free_kind
from speculators.stages.documents import WORK_NAME, damaged_files, read_output
from speculators.stages.table import Stage, build_stages, keyed

BENCHMARK = "benchmark"
REUSE, RUN, ACCEPT, MEASURE, SKIP = "reuse", "run", "accept", "measure", "skip"

NO_PARTS: Mapping[str, Any] = MappingProxyType({})
#: Digest of an input that has still to be made.
OPEN = "open"


class StagePlan(NamedTuple):
    """One stage.  ``key`` and ``parts`` are empty while an input has still to be made.

    ``output``: what is reused or accepted; ``like``: the finished output of the most similar key, which
    the reasons and the estimate come from; ``continues``: an interrupted attempt left work.
    """

    name: str
    action: str
    reasons: tuple[Reason, ...] = ()
    key: str = ""
    parts: Mapping[str, Any] = NO_PARTS
    output: Path | None = None
    like: Kept | None = None
    continues: bool = False


def plan(
    recipe: Recipe, store: Store, choice: Choice, where: Surroundings = HERE, against: Opponent = NOBODY
) -> list[StagePlan]:
    """All stages of ``recipe`` in order, as they would go now.

    ``against``: what the benchmark is held against.

    Raises:
        RecipeError: the choice names a stage that this recipe lacks, or leaves out one that is missing.
    """
    choice = choice.bound(stage_names(recipe))
    planned: list[StagePlan] = []
    outputs: dict[str, Path | None] = {}
    for stage in build_stages(recipe.data):
        one = plan_stage(recipe, stage, outputs, store, choice, where)
        planned.append(one)
        outputs[stage.name] = one.output
    return [*planned, plan_benchmark(recipe, choice, against, where)]


def stage_names(recipe: Recipe) -> list[str]:
    """The stages that a command line can name, in order."""
    return [*(stage.name for stage in build_stages(recipe.data)), BENCHMARK]


def plan_stage(
    recipe: Recipe,
    stage: Stage,
    outputs: Mapping[str, Path | None],
    store: Store,
    choice: Choice,
    where: Surroundings,
) -> StagePlan:
    """One stage, given the outputs of earlier ones (None: still to be made).

    Raises:
        RecipeError: the choice leaves this stage out, and its output is missing.
    """
    if not choice.needs(stage.name):
        return StagePlan(stage.name, SKIP, (Reason("asked", f"--only {choice.only}"),))
    inputs = {name: outputs[name] for name in stage.inputs if name in outputs}
    parts = stage_parts(recipe, stage, inputs, where)
    asked = choice.reason_to_make(stage.name)
    reasons = [asked] if asked else []
    if open_inputs := [name for name, path in inputs.items() if path is None]:
        # Their contents may come out the same: then the run will find this output and reuse it.
        reasons.append(Reason("input", f"made anew before it: {', '.join(open_inputs)}"))
        return _to_run(recipe, stage, choice, store, parts, "", reasons)
    if unknown := where.unknown(stage):
        return _to_run(recipe, stage, choice, store, parts, "", [*reasons, Reason("image", unknown)])
    key = key_of(parts)
    found = store.find(stage.name, key)
    if found and not asked:
        if not (damage := damage_of(found, thorough=False)):
            return StagePlan(stage.name, REUSE, (), key, parts, found)
        way_on = "" if choice.remake else "; the run stops here without --remake-damaged"
        reasons = [Reason("damaged", f"stored output is damaged: {damage}{way_on}")]
    elif stage.name in choice.accept and not asked and (like := acceptable(store, stage.name, parts)):
        why = tuple(differences(like.parts, parts, place_of(recipe)))
        return StagePlan(stage.name, ACCEPT, why, key, parts, like.path, like)
    return _to_run(recipe, stage, choice, store, parts, key, reasons)


def damage_of(output: Path, *, thorough: bool = True) -> str:
    """What is wrong with a stored output, or nothing; ``thorough`` compares every byte with its digest."""
    try:
        return "; ".join(damaged_files(output, read_output(output), thorough=thorough))
    except StageError as error:
        return error.message


def stage_parts(
    recipe: Recipe, stage: Stage, inputs: Mapping[str, Path | None], where: Surroundings
) -> dict[str, Any]:
    """The parts of the stage's key."""
    files = stage_files(recipe, stage)
    sources = where.sources(recipe) if stage.names_verifier else {}
    digests = {
        name: contents_digest(path, stage.of_inputs.get(name)) if path else OPEN
        for name, path in inputs.items()
    }
    return key_parts(stage, keyed(recipe.data, stage), digests, files, sources, where.environment(stage))


def stage_files(recipe: Recipe, stage: Stage) -> dict[str, list[Path]]:
    """The files that the recipe names for the stage.

    Raises:
        StageError: one has vanished since the recipe was checked.
    """
    files = {name: paths for name, paths in recipe.files().items() if name in stage.files}
    for name, paths in files.items():
        for path in paths:
            if not path.exists():
                raise StageError(
                    f"stage '{stage.name}': {path} is gone ({place_of(recipe)(name) or name})",
                    hint="put it back, or change the recipe",
                    rule="vanished",
                )
    return files


def contents_digest(output: Path, only: Collection[str] | None = None) -> str:
    """Digest of a finished output's files, so that an unchanged output stops the cascade.

    ``only``: the files that count; None: all of them.
    """
    files = read_output(output)["files"]
    counted = files if only is None else only
    return value_digest({name: files[name]["sha256"] for name in counted})


def extra_arms(recipe: Recipe, against: Opponent) -> list[str]:
    """The methods without a draft that are measured beside it.

    A gate has up to twelve rounds and asks nothing of free speculation, so that is measured only where the
    recipe says so itself.
    """
    if against and not recipe.positions.has(("benchmark", "extra_arms")):
        return []
    return list(recipe.data["benchmark"]["extra_arms"])


def plan_benchmark(
    recipe: Recipe, choice: Choice, against: Opponent, where: Surroundings = HERE
) -> StagePlan:
    """The benchmark is never taken from the store."""
    if not choice.includes(BENCHMARK):
        return StagePlan(BENCHMARK, SKIP, (Reason("asked", f"--only {choice.only}"),))
    wanted = recipe.data["benchmark"]
    free = [arm for arm in extra_arms(recipe, against) if arm != free_kind(recipe.data)]
    lacking = where.lacking(tuple(package for arm in free if (package := FREE_ARMS[arm])))
    left_out = [arm for arm in free if FREE_ARMS[arm] in lacking]
    arms = arms_asked(recipe.data, len(free) - len(left_out)) + bool(against.base or against.itself)
    arms += bool(against.base and against.base.served_otherwise(recipe.data["engine"]))
    counts = {"round": wanted["rounds"], "arm": arms, "load": len(wanted["concurrency"])}
    work = " × ".join(f"{count} {name}{'s' if count > 1 else ''}" for name, count in counts.items())
    if against and not against.itself:
        *before, last = map(str, sorted(wanted["gate"]["looks"]))
        looks = f"{', '.join(before)} or {last}" if before else last
        work = " × ".join([f"{looks} rounds, until the gate knows,", *work.split(" × ")[1:]])
    work += "".join(f" (without {arm}: no {FREE_ARMS[arm]} here)" for arm in left_out)
    return StagePlan(BENCHMARK, MEASURE, (Reason("measure", f"measured anew in every run: {work}"),))


def nearest(store: Store, stage: str, parts: dict[str, Any]) -> Kept | None:
    """The finished output whose key differs in the fewest things; of equals the newest."""
    return min(store.history(stage), key=lambda kept: distance(kept.parts, parts), default=None)


def acceptable(store: Store, stage: str, parts: dict[str, Any]) -> Kept | None:
    """The newest finished output whose key differs in nothing but code."""
    for kept in store.history(stage):
        found = differences(kept.parts, parts, lambda _: "")
        if all(reason.kind == "module" for reason in found) and not damage_of(kept.path, thorough=False):
            return kept
    return None


def place_of(recipe: Recipe) -> Place:
    """A function from a recipe path to ``file:line`` where it was written."""
    return lambda path: recipe.positions.place(split_path(path))


def _to_run(
    recipe: Recipe,
    stage: Stage,
    choice: Choice,
    store: Store,
    parts: dict[str, Any],
    key: str,
    reasons: list[Reason],
) -> StagePlan:
    like = nearest(store, stage.name, parts)
    if like is not None:
        found = differences(like.parts, parts, place_of(recipe))
        reasons += [one for one in found if one.kind != "input" or key]
    reasons = reasons or [Reason("missing", "its output is gone" if like else "no earlier output")]
    damaged = any(reason.kind == "damaged" for reason in reasons)
    if not choice.includes(stage.name) and not damaged:
        raise RecipeError(
            f"--only {choice.only}: stage '{stage.name}' would have to run first: "
            + "; ".join(reason.text for reason in reasons[:3]),
            hint="leave --only out, or name that stage first",
            rule="only",
        )
    # Only stages that can continue keep their place there.
    work = bool(key) and (store.partial(stage.name, key) / WORK_NAME).is_dir()
    continues = work and not choice.reason_to_make(stage.name)
    return StagePlan(stage.name, RUN, tuple(reasons), key, parts, None, like, continues)
