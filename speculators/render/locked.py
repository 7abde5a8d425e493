"""What a recipe's lock means for its jobs: the same inputs, under the names that they have in the job folder.

A cluster has no engine that knows an image built elsewhere, so of images only digests of a registry count: by
these the jobs' lock pins them, whatever the recipe's own has.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speculators.errors import RecipeError
from speculators.executors.image_pins import by_digest, refuse_untested
from speculators.executors.images import Image, load_images
from speculators.pipeline.lock import RECIPE_DIGEST, Pin, render, within
from speculators.pipeline.lock_changes import compare, renewed
from speculators.pipeline.locking import chosen_anew, lock_path, read_lock, refuse_stale
from speculators.pipeline.pins import file_names, gather, recipe_digest
from speculators.pipeline.premises import Wanted
from speculators.recipe.positions import Path as PinPath
from speculators.recipe.prompt_source import BENCHMARK_FILES, sources_of
from speculators.recipe.recipe import Recipe

IMAGES: PinPath = ("images",)

Held = Mapping[PinPath, Pin]


def held(recipe: Recipe, home: Path) -> dict[PinPath, Pin]:
    """The pins of the recipe's lock as they are now, and as it has them where only the cluster can look.

    Empty without a lock.  ``home``: where digests of large files are remembered.

    Raises:
        RecipeError: a model, a tokenizer or prompts are not those that the lock pins.
    """
    path = lock_path(recipe.path)
    lock = read_lock(path, recipe)
    if lock is None:
        return {}
    present, chosen = gather(recipe, home), chosen_anew(recipe)
    refuse_stale(recipe, path, lock, compare(lock, present))
    # What cannot be looked at here is known from the lock alone, unless it is of an input given up.
    seen = present.to_commit()
    return {
        name: pin for name, pin in renewed(lock, present).items() if name in seen or not within(name, chosen)
    }


def job_images(recipe: Recipe, wanted: Wanted, pins: Held) -> dict[str, Image]:
    """The image of each role; where its row in ``images.yaml`` has no digest, by that in the lock.

    Raises:
        RecipeError: a name is unknown, an image is none of ours and that was not allowed, or it is another
            one than the lock pins.
    """
    table, chosen = load_images(), recipe.data["container"]["images"]
    images = table.roles(chosen, wanted.images)
    locked = {role: str(pins.get((*IMAGES, role, "reference"), "")) for role in images}
    known = {role: reference for role, reference in locked.items() if by_registry(reference)}
    open_ones = {role for role, image in images.items() if image.tested and not image.digest}
    pinned = {role: reference for role, reference in known.items() if role in open_ones}
    images = table.roles(chosen, {**wanted.images, **pinned})
    refuse_untested(images, table.images, wanted.untested)
    others = [
        f"image '{role}' is {images[role].reference}, but the lock pins {reference}"
        for role, reference in known.items()
        if images[role].digest and images[role].digest != by_registry(reference)
    ]
    if others:
        raise RecipeError(
            "; ".join(others),
            hint="take the locked image, or lock the recipe anew with this one (speculators lock --image)",
            rule="stale-lock",
        )
    return images


def by_registry(reference: str) -> str:
    """The digest in a reference; empty for an image that was only built."""
    return reference.partition("@")[2]


def lock_text(recipe: Recipe, pins: Held, data: Mapping[str, Any], images: Mapping[str, Image]) -> str:
    """The lock of the job folder's recipe, which has the values ``data`` and runs in ``images``."""
    names = moved_prompts(recipe, data)
    moved = {
        (*path[:2], names.get(path[1:3], path[2]), *path[3:]) if path[0] == "prompts" else path: pin
        for path, pin in pins.items()
        if not within(path, (IMAGES,))
    }
    return render({**moved, **image_pins(pins, images), RECIPE_DIGEST: recipe_digest(data)})


def image_pins(pins: Held, images: Mapping[str, Image]) -> dict[PinPath, Pin]:
    """What a job compares the images with that it is told of.

    Empty where the platform of one is open, for an image may be made for several: the first job adds them.
    """
    found: dict[PinPath, Pin] = {}
    for role, image in images.items():
        at = (*IMAGES, role)
        if not image.digest:  # of a role without a stage; jobs.py refuses any other
            continue
        known = {path: pin for path, pin in pins.items() if within(path, (at,))}
        if image.digest not in (known.get((*at, "digest")), by_registry(str(known.get((*at, "reference"))))):
            known = {}
        platform = known.get((*at, "platform")) or (image.platforms[0] if len(image.platforms) == 1 else "")
        if not platform:
            return {}
        found |= known
        found |= {(*at, "digest"): image.digest, (*at, "platform"): platform}
        found[(*at, "reference")] = by_digest(image)
    return found


def moved_prompts(recipe: Recipe, data: Mapping[str, Any]) -> dict[PinPath, str]:
    """The new name of each prompt file, by its block in a lock and its name there so far."""
    files = recipe.files()
    folder = recipe.path.absolute().parent
    asked = [one.file for one in sources_of(data["benchmark"]["prompts"])]
    beside = {
        "benchmark": (files.get(BENCHMARK_FILES, []), [name for name in asked if isinstance(name, str)]),
        "train": (
            files.get("datagen.prompts.files", []),
            data.get("datagen", {}).get("prompts", {}).get("files", []),
        ),
    }
    return {
        (block, was): now
        for block, (paths, names) in beside.items()
        for was, now in zip(file_names(paths, folder), file_names([Path(name) for name in names], Path()))
    }
