"""What a run rests on, settled before its first stage: where stages run, and the inputs its lock pins."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from speculators.errors import RecipeError
from speculators.executors.base import Executor
from speculators.executors.images import load_images
from speculators.executors.local import LocalExecutor
from speculators.pipeline.lock import ImagePin, Lock, Pins, locked_image_pins
from speculators.pipeline.lock_changes import compare
from speculators.pipeline.locking import LockState, enforce, lock_path, read_lock, refuse_stale
from speculators.pipeline.pins import gather
from speculators.pipeline.preflight import check_environment
from speculators.pipeline.surroundings import Surroundings, given
from speculators.recipe.recipe import Recipe


class Wanted(NamedTuple):
    """What the command line says of all this.

    ``images``: from --image, by role or row; ``untested``: --allow-untested; ``locked``: --locked.
    """

    images: Mapping[str, str] = {}
    untested: bool = False
    locked: bool = False


AS_SHIPPED = Wanted()
#: Processors as images name them, by Python's names.
PROCESSORS = {"x86_64": "amd64", "aarch64": "arm64"}


class Premises(NamedTuple):
    """``lock``: the run's own; ``record``: what ``run.json`` says of all this."""

    executor: Executor
    where: Surroundings
    lock: LockState
    record: dict[str, Any]


def settle(
    recipe: Recipe, wanted: Wanted, roles: Collection[str], home: Path, say: Callable[[str], None]
) -> Premises:
    """Make ready where the stages of ``roles`` run and compare everything with the lock.

    Raises:
        MachineError: a package, the engine, an image or a secret is missing.
        RecipeError: an image or an input is not the one that the lock pins; --image without containers.
    """
    path = lock_path(recipe.path)
    stored = read_lock(path, recipe)
    if recipe.data["executor"] == "docker":
        from speculators.pipeline.containers import containers, require_secrets

        require_secrets(recipe.data["container"]["secrets"], os.environ)
        made = containers(recipe, wanted.images, wanted.untested, image_digests(stored), home, say)
        executor: Executor = made.executor
        where, pins = made.where, made.pins
        record: dict[str, Any] = {"executor": "docker", "engine": made.engine}
    else:
        refuse_images(wanted)
        check_environment(roles, recipe)
        executor, where = LocalExecutor(), given(recipe, os.environ)
        pins = image_pins(where, stored)
        record = {"executor": "local"}
    if pins:
        record["images"] = {role: _shown(pin) for role, pin in sorted(pins.items())}
    found = gather(recipe, home, pins or None)
    lock = enforce(recipe, path, found, locked=wanted.locked, images_chosen=bool(wanted.images))
    for note in lock.notes:
        say(note)
    return Premises(executor, where, lock, {**record, "lock": {"sha256": lock.sha256}})


def refuse_images(wanted: Wanted) -> None:
    """Stop at an image that nothing would run in.

    Raises:
        RecipeError: --image without containers.
    """
    if wanted.images:
        raise RecipeError(
            "--image names an image, but stages run in this environment",
            hint="add --executor docker, or leave --image out",
            rule="usage",
        )


def planned_surroundings(recipe: Recipe, wanted: Wanted) -> Surroundings:
    """Where stages would run, without fetching or starting anything.

    Raises:
        RecipeError: --image without containers, or one that is not allowed.
    """
    if recipe.data["executor"] != "docker":
        refuse_images(wanted)
        return given(recipe, os.environ)
    from speculators.pipeline.containers import surroundings

    pinned = image_digests(read_lock(lock_path(recipe.path), recipe))
    return surroundings(recipe, wanted.images, wanted.untested, pinned)


def lock_refusal(recipe: Recipe, wanted: Wanted, home: Path) -> RecipeError | None:
    """Why the lock would not let a run start, as far as is seen without an engine; None if it would."""
    path = lock_path(recipe.path)
    try:
        if lock := read_lock(path, recipe):
            differences = compare(lock, gather(recipe, home))
            refuse_stale(recipe, path, lock, differences, images_chosen=bool(wanted.images))
    except RecipeError as error:
        return error
    return None


def pins_to_lock(
    recipe: Recipe, wanted: Wanted, home: Path, say: Callable[[str], None], *, fetch: bool
) -> Pins:
    """What a lock of ``recipe`` holds now, images included; ``fetch``: pull those that are not here.

    Raises:
        MachineError: the engine or an image is missing.
        RecipeError: --image without containers.
    """
    if recipe.data["executor"] != "docker":
        refuse_images(wanted)
        return gather(recipe, home)
    from speculators.pipeline.containers import containers

    made = containers(recipe, wanted.images, wanted.untested, None, home, say, fetch=fetch)
    return gather(recipe, home, made.pins)


def image_pins(where: Surroundings, lock: Lock | None) -> dict[str, ImagePin]:
    """The images that a cluster gave to its jobs; empty anywhere else.

    A job sees only its own: what is in the others its lock says, as long as they are those of the lock.
    """
    if where.pins is None:
        return {}
    shipped = {row.digest for row in load_images().images.values()}
    locked = locked_image_pins(lock)
    return {
        role: ImagePin(
            role,
            where.names[role],
            digest,
            f"{platform.system().lower()}/{PROCESSORS.get(platform.machine(), platform.machine())}",
            locked[role].packages if role in locked and locked[role].digest == digest else {},
            tested=digest in shipped,
        )
        for role, digest in where.pins.items()
        if digest
    }


def image_digests(lock: Lock | None) -> dict[str, str]:
    """The digest of each role's image in a lock."""
    return {role: pin.digest for role, pin in locked_image_pins(lock).items()}


def _shown(pin: ImagePin) -> dict[str, Any]:
    return {
        "reference": pin.reference,
        "digest": pin.digest,
        "platform": pin.platform,
        "tested": pin.tested,
        "packages": dict(sorted(pin.packages.items())),
    }
