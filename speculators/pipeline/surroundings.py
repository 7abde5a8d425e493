"""Where a recipe's stages run, as keys and plans see it: this environment, or images by their digests.

Planning needs no engine: what an image is stands in ``--image``, in the lock or in ``images.yaml``.  Only of
an image that was built here and that no lock pins must an engine be asked; where none answers, the plan says
so of the stages concerned.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import NamedTuple

from speculators.errors import RecipeError
from speculators.executors.images import ROLES
from speculators.pipeline.keys import environment, instruction_sets
from speculators.recipe.recipe import Recipe
from speculators.stages.table import Stage

#: ``engine=repository@sha256:… trainer=… bench=…``; nothing after the sign for a role that has no stage.
IMAGES_VARIABLE = "SPECULATORS_IMAGES"


class Surroundings(NamedTuple):
    """``pins``: the digest of each role's image, empty while it is unknown; None: this environment.

    ``gpus``: how many stages that compute get in a container, or ``all``; an image does both, with and
    without, with other last bits.
    """

    pins: Mapping[str, str] | None = None
    names: Mapping[str, str] = {}
    gpus: int | str = 0

    def environment(self, stage: Stage) -> dict[str, str]:
        """What the key of ``stage`` says of them."""
        found = self.of((stage.role,), stage.packages)
        return found if self.pins is None else {**found, "gpus": "yes" if self.gpus and stage.gpus else "no"}

    def of(self, roles: tuple[str, ...], packages: tuple[str, ...]) -> dict[str, str]:
        """The images of ``roles``, or here the versions of ``packages``."""
        if self.pins is None:
            return environment(packages)
        return {
            "machine": platform.machine(),
            "instructions": " ".join(instruction_sets()),
            "gpus": "yes" if self.gpus else "no",
            **{f"image {role}": self.pins[role] for role in roles},
        }

    def lacking(self, packages: tuple[str, ...]) -> tuple[str, ...]:
        """Those of ``packages`` that are known not to be there; of an image that is known when it runs."""
        here = environment(packages)
        return tuple(one for one in packages if one not in here) if self.pins is None else ()

    def sources(self, recipe: Recipe) -> dict[str, str]:
        """What the verifier's name stands for; a model that a package ships is part of an image."""
        found = recipe.verifier_source()
        return found if self.pins is None else {name: one for name, one in found.items() if name != "version"}

    def unknown(self, stage: Stage) -> str:
        """Why the stage's key cannot be known yet, or nothing."""
        if self.pins is None or self.pins[stage.role]:
            return ""
        return f"its image {self.names[stage.role]} is neither pinned nor in an engine here"


HERE = Surroundings()


def given_gpus(recipe: Recipe) -> int | str:
    """How many GPUs stages that compute get in a container, or ``all``."""
    gpus: int | str = recipe.data["container"]["gpus"]
    return gpus


def given(recipe: Recipe, environ: Mapping[str, str]) -> Surroundings:
    """Where this process runs: in an image whose digest whoever started it names, or just here.

    A cluster starts the containers itself, one a stage; then every job has to know all images, for its keys
    reach back to the first stage.

    Raises:
        RecipeError: the variable names not exactly the roles' images.
    """
    if not (text := environ.get(IMAGES_VARIABLE)):
        return HERE
    words = [word.partition("=") for word in text.split()]
    names = {role: reference for role, sign, reference in words if sign}
    if sorted(names) != sorted(ROLES) or len(words) != len(ROLES):
        raise RecipeError(
            f"{IMAGES_VARIABLE}={text}: not one ROLE=REPOSITORY@DIGEST for each of {', '.join(ROLES)}",
            hint="the scripts that `speculators render` writes set it; unset it elsewhere",
            rule="usage",
        )
    pins = {role: reference.rpartition("@")[2] for role, reference in names.items()}
    return Surroundings(pins, names, given_gpus(recipe))
