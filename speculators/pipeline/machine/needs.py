"""What a run takes at the most, of a recipe, and how ``speculators plan`` says so.

Told before anything is fetched: from the verifier's folder where it is here, else from the facts that are
committed of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from speculators.datagen.prepared import state_files
from speculators.pipeline.machine import gpu, sources
from speculators.pipeline.machine.estimates import Needs, count_parameters, count_prompts, estimate
from speculators.quantities import size
from speculators.recipe.facts import find_facts
from speculators.recipe.recipe import Recipe
from speculators.recipe.view import PREPARED, trains
from speculators.recipe.warm_start import new_shape, planned_shape


class Taken(NamedTuple):
    """The needs of a recipe, by how many GPUs its engine parts the weights, and where the facts are from."""

    needs: Needs
    gpus: int
    source: str


def taken_by(recipe: Recipe, environ: Mapping[str, str]) -> Taken | None:
    """The estimate for ``recipe``; None when nothing is known of its verifier."""
    place = recipe.path.absolute().parent
    facts = find_facts(recipe.data["verifier"], place, environ)
    if facts is None:
        return None
    folder = sources.verifier_folder(recipe, environ)
    # Half a download would be half a model.
    counted = count_parameters(folder) if folder and not sources.gaps(folder) else None
    named = recipe.files()
    limit = recipe.data["datagen"]["prompts"]["limit"] if "datagen" in recipe.data else None
    states = [path for folder in named.get(PREPARED, []) for path in state_files(folder).values()]
    prompts = count_prompts(named.get("datagen.prompts.files", []), limit)
    draft = planned_shape(recipe.data, place, environ, facts)
    if draft is None and trains(recipe.data):  # from one not at hand: most are of their verifier's widths
        draft = new_shape(recipe.data["algorithm"], facts)
    brought = sum(path.stat().st_size for path in states)
    needs = estimate(recipe.data, facts, prompts, draft, counted, brought)
    return Taken(needs, gpu.parts(recipe.data["engine"]["args"]), facts.source)


def needs_of(recipe: Recipe, environ: Mapping[str, str]) -> Needs | None:
    """The bytes of ``taken_by`` alone, for who asks the machine."""
    taken = taken_by(recipe, environ)
    return taken.needs if taken else None


def told(taken: Taken | None) -> list[str]:
    """Lines for a plan: the weights, and what each stage keeps; nothing where nothing is known."""
    if taken is None:
        return []
    needs = taken.needs
    weights = f"{_count(needs.parameters)} parameters, {size(needs.weights)} in the engine"
    if taken.gpus > 1:
        weights += f", {size(needs.weights / taken.gpus)} on each of {taken.gpus} GPUs"
    rows = {
        "verifier": weights + (f"; {size(needs.verifier)} of disk" if needs.verifier else ""),
        "hidden_states": f"{size(needs.states)} of disk"
        + (f" for {_count(needs.tokens)} tokens" if needs.tokens else ", as brought"),
        "training": f"{size(needs.training)} of disk",
        "package": f"{size(needs.model)} of disk, once more in the run's folder",
    }
    if not needs.states:  # nothing is trained, so nothing is captured or packaged
        rows = {"verifier": rows["verifier"]}
    lines = [f"    {stage:<14} {row}" for stage, row in rows.items()]
    return [f"at the most, all answers at full length ({taken.source}):", *lines]


def document(taken: Taken | None) -> dict[str, Any] | None:
    """For the plan's JSON document, in bytes and tokens."""
    return None if taken is None else {**taken.needs._asdict(), "gpus": taken.gpus, "source": taken.source}


def _count(number: int) -> str:
    for unit, word in ((10**9, " billion"), (10**6, " million")):
        if number >= unit:
            return f"{number / unit:.3g}{word}"
    return f"{number:,}"
