"""A recipe as jobs for a cluster: one a stage, in order, each in the image of its role.

Pure.  A job is ``speculators run recipe.yaml --only STAGE`` inside the image: keys, store and going on after
an interruption are the same as on one machine, and a job whose earlier stage is missing refuses to start.
The benchmark starts server and client beside each other, so it runs in the image that has both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from speculators.errors import RecipeError
from speculators.executors.image_pins import by_digest
from speculators.executors.images import Image
from speculators.pipeline.plan import BENCHMARK
from speculators.pipeline.surroundings import IMAGES_VARIABLE
from speculators.recipe.recipe import Recipe
from speculators.serving.environment import OFFLINE
from speculators.stages.table import build_stages

RECIPE_NAME = "recipe.yaml"
#: Beside the recipe, where a job looks for it.
LOCK_NAME = "recipe.lock.yaml"
PACKAGE_NAME = "package"
RUNS_NAME = "runs"
#: A name that no shell, batch system or YAML reader takes for anything else.
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
#: Fetch nothing, and leave the user's own packages alone.
ENVIRONMENT = {**OFFLINE, "PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1"}
ASSUMPTIONS = (
    "The image holds dependencies only; this project's code comes from package/.  Its command line needs",
    "jinja2, jsonschema, pyyaml, rich and typer there: vLLM's own requirements bring all five.",
)


class Options(NamedTuple):
    """What a cluster wants to know beyond the recipe; empty: left to the site.

    ``home`` and ``hub`` are folders on a file system that all nodes share: the store, and the hub's cache
    with the models that the recipe names.  ``claim``: the PersistentVolumeClaim of both, and of the runs.
    ``secret``: the Kubernetes Secret with a key for each name in the recipe's ``container.secrets``.
    """

    cpus: int = 8
    partition: str = ""
    home: str = ""
    hub: str = ""
    claim: str = ""
    namespace: str = ""
    secret: str = "speculators"


class Job(NamedTuple):
    """One stage: ``image`` is ``repository@sha256:digest``, ``pins`` the images of all roles by digest."""

    stage: str
    image: str
    gpus: int
    argv: tuple[str, ...]
    pins: str

    @property
    def environment(self) -> dict[str, str]:
        """What every job's environment says, whoever starts it."""
        return {**ENVIRONMENT, IMAGES_VARIABLE: self.pins}


def jobs_of(recipe: Recipe, images: Mapping[str, Image]) -> list[Job]:
    """The stages of ``recipe`` as jobs, in the order in which they must run.

    Raises:
        RecipeError: an image has no digest that a registry knows, or the number of GPUs is open.
    """
    stages = build_stages(recipe.data)
    require_digests(images[role] for role in (*(stage.role for stage in stages), "bench"))
    gpus = gpu_count(recipe, images)
    pins = " ".join(f"{role}={by_digest(image) if image.digest else ''}" for role, image in images.items())
    build = [(stage.name, images[stage.role], gpus if stage.gpus else 0) for stage in stages]
    return [
        Job(name, by_digest(image), count, run_words(image.python, name), pins)
        for name, image, count in [*build, (BENCHMARK, images["bench"], gpus)]
    ]


def run_words(python: str, stage: str) -> tuple[str, ...]:
    command = (python, "-m", "speculators", "run", RECIPE_NAME, "--only", stage)
    return (*command, "--runs-dir", RUNS_NAME, "--progress", "plain")


def require_digests(images: Iterable[Image]) -> None:
    """Stop when a cluster could not pull an image, or could pull another one under the same name.

    Raises:
        RecipeError: naming every such image.
    """
    open_ones = {image.name: image for image in images if not image.digest}
    if not open_ones:
        return
    told = ", ".join(f"'{name}' ({image.reference})" for name, image in open_ones.items())
    wanted = " ".join(f"--image {name}=REPOSITORY@sha256:..." for name in open_ones)
    verb = "have" if len(open_ones) > 1 else "has"
    raise RecipeError(
        f"{told} {verb} no digest in a registry, and a cluster knows images by nothing else",
        hint=f"build {'them' if len(open_ones) > 1 else 'it'}, push to a registry that the cluster reaches, "
        f"and pass {wanted} --allow-untested",
        rule="no-digest",
    )


def gpu_count(recipe: Recipe, images: Mapping[str, Image]) -> int:
    """GPUs of a job that computes.

    Raises:
        RecipeError: the recipe says 'all', or none although the images compute on them.
    """
    wanted = recipe.data["container"]["gpus"]
    if wanted == "all":
        raise RecipeError(
            "container.gpus is 'all', but a batch system hands out a number of them",
            hint="say how many: --set container.gpus=1",
            rule="gpus",
        )
    if wanted == 0 and any(image.device == "cuda" for image in images.values()):
        raise RecipeError(
            f"the images '{recipe.data['container']['images']}' compute on GPUs, and container.gpus is 0",
            hint="say how many: --set container.gpus=1",
            rule="gpus",
        )
    return int(wanted)


def uses_hub(recipe: Recipe) -> bool:
    """Whether a stage takes a model from the hub's cache."""
    return "repository" in recipe.data["verifier"] or bool(recipe.hub_models())


def require_plain(flag: str, value: str) -> None:
    """Stop at a name that a batch system would take for more than a name.

    Raises:
        RecipeError: ``value`` is no such name.
    """
    if value and not PLAIN.fullmatch(value):
        raise RecipeError(
            f"{flag}: '{value}' is no name",
            hint="letters, digits, '.', '_' and '-', the first a letter or digit",
            rule="usage",
        )
