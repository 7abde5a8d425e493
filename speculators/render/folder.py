"""The job folder: all that a cluster needs of this machine, in one place that can be copied there.

``recipe.yaml`` is the recipe with every default and override in it and with its files beside it,
``recipe.lock.yaml`` what its lock pins of them; ``package/`` is this project's code.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from speculators.documents import known_json, write_json, write_text
from speculators.errors import RecipeError
from speculators.executors.images import Image
from speculators.pipeline.keys import PACKAGE_ROOT
from speculators.pipeline.machine.sources import data_findings
from speculators.pipeline.preflight import require
from speculators.recipe.prompt_source import BENCHMARK_FILES
from speculators.recipe.recipe import Recipe
from speculators.recipe.yaml_writer import dump_yaml
from speculators.render import kubernetes, slurm
from speculators.render.jobs import LOCK_NAME, PACKAGE_NAME, RECIPE_NAME, Job, Options, jobs_of
from speculators.render.locked import Held, lock_text

SCHEMA = "speculators/render/v1"
DOCUMENT_NAME = "render.json"
FILES_NAME = "files"
#: Package data that lies beside the package in a checkout and inside of it when installed.
BESIDE = ("schemas", "containers", "recipes")
NO_PINS: Held = MappingProxyType({})

Target = Callable[[Recipe, list[Job], Options], dict[str, str]]
TARGETS: dict[str, Target] = {"sbatch": slurm.scripts, "k8s": kubernetes.manifests}


class Rendering(NamedTuple):
    """What to write: ``texts`` by name, ``copies`` from a name in the folder to a file or folder here."""

    document: dict[str, Any]
    texts: dict[str, str]
    copies: dict[str, Path]


def render(
    recipe: Recipe, to: str, images: dict[str, Image], options: Options, pins: Held = NO_PINS
) -> Rendering:
    """The job folder of ``recipe``.

    ``pins``: what its lock holds (``locked.py``); empty without one.

    Raises:
        RecipeError: the recipe, an image or an option does not fit a cluster.
    """
    jobs = jobs_of(recipe, images)
    data, copies = with_files_beside(recipe)
    document = {
        "schema": SCHEMA,
        "to": to,
        "recipe": recipe.name,
        "jobs": [{"stage": job.stage, "image": job.image, "gpus": job.gpus} for job in jobs],
    }
    texts = {RECIPE_NAME: dump_yaml(data), **TARGETS[to](recipe, jobs, options)}
    if pins:
        texts[LOCK_NAME] = lock_text(recipe, pins, data, images)
    return Rendering(document, texts, copies)


def with_files_beside(recipe: Recipe) -> tuple[dict[str, Any], dict[str, Path]]:
    """The recipe's data naming files below ``files/``, and where each of them is now.

    Models that the recipe names on the hub stay there; files of datasets are taken from the local cache.

    Raises:
        MachineError: such a file was not fetched.
    """
    require(data_findings(recipe, os.environ), "data")
    data = copy.deepcopy(recipe.data)
    data["executor"] = "local"  # a job is already inside its container
    copies: dict[str, Path] = {}
    for dotted, paths in recipe.files().items():
        if dotted in recipe.hub_models():
            continue
        names = [f"{FILES_NAME}/{dotted}/{number}-{path.name}" for number, path in enumerate(paths)]
        copies |= dict(zip(names, paths))
        if dotted == BENCHMARK_FILES:
            names = [source.named(file) for source, file in zip(recipe.benchmark_sources(), names)]
        *parents, last = dotted.split(".")
        block = data
        for name in parents:
            block = block[name]
        block[last] = names if isinstance(block[last], list) else names[0]
    return data, copies


def write(rendering: Rendering, folder: Path) -> None:
    """Write the job folder; an earlier rendering is replaced, its runs, logs and images stay.

    Raises:
        RecipeError: the folder holds something else.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not is_rendering(folder))):
        raise RecipeError(
            f"{folder} is there and is no earlier rendering",
            hint="name another folder with --output",
            rule="output",
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / DOCUMENT_NAME, rendering.document)
    for stale in (*folder.glob("*.sbatch"), *folder.glob("*.yaml"), folder / slurm.SUBMIT_NAME):
        stale.unlink(missing_ok=True)
    for name in (FILES_NAME, PACKAGE_NAME):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    for name, source in rendering.copies.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy_tree(source, folder / name)
    copy_package(folder / PACKAGE_NAME / "speculators")
    for name, text in rendering.texts.items():
        write_text(folder / name, text)
        if name.endswith(".sh"):
            (folder / name).chmod(0o755)


def is_rendering(folder: Path) -> bool:
    return known_json(folder / DOCUMENT_NAME).get("schema") == SCHEMA


def copy_package(target: Path) -> None:
    """This project's code and data, as an installation has them."""
    copy_tree(PACKAGE_ROOT, target)
    for name in BESIDE:
        if not (target / name).is_dir():
            copy_tree(PACKAGE_ROOT.parent / name, target / name)


def copy_tree(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(source, target)
