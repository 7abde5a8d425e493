"""The container engine of this machine: whether it answers, has the images, and holds what nobody owns."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from speculators.errors import MachineError
from speculators.executors import engine, supervise
from speculators.executors.image_store import api_error, find
from speculators.executors.images import Image, load_images
from speculators.pipeline.machine.findings import Finding, missing, ok, warning
from speculators.recipe.recipe import Recipe

CHECK = "containers"


class Orphan(NamedTuple):
    """A container of ours whose client is gone."""

    id: str
    name: str
    state: str

    def __str__(self) -> str:
        return f"container {self.name} ({self.state})"


def computes_on(recipe: Recipe) -> str:
    """What the engine's image is made for: ``cpu`` or ``cuda``."""
    return load_images().roles(recipe.data["container"]["images"])["engine"].device


def container_findings(recipe: Recipe | None) -> list[Finding]:
    """Of the engine and the images when the recipe wants containers; of left-overs wherever one answers."""
    wants = recipe is not None and recipe.data["executor"] == "docker"
    try:
        connected = engine.connect()
    except MachineError as error:
        return [missing(CHECK, error.message, error.hint)] if wants else []
    found = [ok(CHECK, connected.spelled())] if wants else []
    if wants and recipe is not None:
        roles = load_images().roles(recipe.data["container"]["images"])
        found += image_findings(roles, connected.client)
    mend = "`speculators doctor --clean` removes it"
    return found + [warning(CHECK, f"{one}: its run is gone", mend) for one in orphans(connected.client)]


def image_findings(roles: Mapping[str, Image], client: Any) -> list[Finding]:
    """One finding an image: here, to be pulled, or to be built."""
    found = []
    for image in dict.fromkeys(roles.values()):
        if here := find(image, client):
            found.append(ok("image", f"{image.reference} is here ({here.platform})"))
        elif image.build:
            mend = f"speculators images build {image.name}"
            found.append(missing("image", f"{image.reference} is not built", mend))
        else:
            found.append(ok("image", f"{image.reference} is not here; the run pulls it by its digest"))
    return found


def clean() -> list[Finding]:
    """Remove the containers whose run is gone; says what was done."""
    try:
        client = engine.connect().client
    except MachineError:
        return []
    done = []
    for orphan in orphans(client):
        with suppress(api_error()):  # its client was about to remove it
            client.api.remove_container(orphan.id, force=True)
        done.append(ok(CHECK, f"removed {orphan}"))
    return done


def orphans(client: Any) -> list[Orphan]:
    """Containers with our label whose client does not live on this machine any more."""
    listed = client.api.containers(all=True, filters={"label": engine.LABEL})
    return [
        Orphan(one["Id"], one["Names"][0].lstrip("/"), one["State"])
        for one in listed
        if not _is_attended(one["Labels"].get(engine.CLIENT_LABEL, ""))
    ]


def _is_attended(client: str) -> bool:
    """Whether the client lives, or lives where nobody here can tell: an engine may have other users."""
    words = client.split()
    ours = supervise.process_mark(os.getpid()).split()
    if len(words) != 4 or words[:2] != ours[:2]:
        return True
    return client == supervise.process_mark(int(words[2]))
