"""Finished outputs for tests, without the work: what a stage would leave, under the key it would have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from speculators.documents import write_json
from speculators.pipeline.choice import Choice
from speculators.pipeline.plan import plan_stage, stage_names
from speculators.pipeline.store import KEY_NAME, Store
from speculators.pipeline.surroundings import HERE
from speculators.recipe.recipe import Recipe
from speculators.stages.documents import StageInput, write_output
from speculators.stages.table import build_stages

#: The files of stages of which not all are read by the next one.
LEFT = {"prompts": ("train.jsonl", "benchmark.jsonl")}


def leave(folder: Path, stage: str, contents: Mapping[str, str]) -> None:
    """Fill ``folder`` as ``stage`` would; ``contents`` by stage, or by one of its files."""
    for name in LEFT.get(stage, ("made.txt",)):
        (folder / name).write_text(contents.get(f"{stage}/{name}", contents.get(stage, stage)))
    write_output(StageInput(stage, {}, {}, {}, folder), {}, seconds=60.0)


def furnish(store: Store, recipe: Recipe, contents: Mapping[str, str] | None = None) -> dict[str, Path]:
    """Fill ``store`` with every stage of ``recipe``; ``contents`` by stage or by file where they matter."""
    contents = contents or {}
    outputs: dict[str, Path] = {}
    choice = Choice().bound(stage_names(recipe))
    for stage in build_stages(recipe.data):
        planned = plan_stage(recipe, stage, outputs, store, choice, HERE)
        if planned.output is None:
            with store.filling(stage.name, planned.key) as folder:
                leave(folder, stage.name, contents)
                write_json(folder / KEY_NAME, dict(planned.parts))
        outputs[stage.name] = planned.output or store.path(stage.name, planned.key)
    return outputs
