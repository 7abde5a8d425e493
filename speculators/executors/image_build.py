"""Building the images that this project does not pull, each from its folder in ``containers/``."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from speculators.errors import RecipeError, SpeculatorsError, StageError
from speculators.executors.engine import refusal
from speculators.executors.image_pins import by_digest
from speculators.executors.image_store import (
    FULL,
    LABEL,
    Found,
    Tell,
    ensure,
    find,
    pull_failure,
    refusals,
    require_platform,
    silent,
    stream_error,
)
from speculators.executors.images import Image, containers_folder, load_images

#: Lines of a failed step that the error quotes.
QUOTED_LINES = 12
#: A build is silent for as long as its slowest download.
BUILD_SECONDS = 3600
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
STEP = ("Step ", "STEP ")
#: What a builder says of its own containers.
BOOKKEEPING = (" ---> ", "--> ", "Removing intermediate container")


class BuildOptions(NamedTuple):
    """How one image is built, as far as its folder does not say it.

    ``base`` replaces the row's own, ``packages`` is another package index than the default one, ``network``
    that of the build's commands.
    """

    base: str = ""
    platform: str = ""
    network: str = ""
    packages: str = ""


AS_SHIPPED = BuildOptions()


class BuildLog:
    """The lines of a build as they come, in pieces; keeps the last ones of the step that it is at."""

    def __init__(self, tell: Tell) -> None:
        self.step = ""
        self.lines = deque[str](maxlen=QUOTED_LINES)
        self._tell = tell
        self._begun = ""

    def add(self, piece: str) -> None:
        *whole, self._begun = (self._begun + piece).split("\n")
        for line in filter(None, (COLOUR.sub("", text).rstrip() for text in whole)):
            self._tell(line)
            if line.startswith(STEP):
                self.step = line
                self.lines.clear()
            elif not line.startswith(BOOKKEEPING):
                self.lines.append(line)


def build(
    image: Image,
    client: Any,
    options: BuildOptions = AS_SHIPPED,
    *,
    tell: Tell = silent,
    folder: Path | None = None,
) -> Found:
    """Build ``image`` and give it its name.

    Args:
        image: a row of ``images.yaml``.
        client: the engine's.
        options: what differs from the way it ships.
        tell: gets every line of the build.
        folder: the one with a folder an image, by default our own ``containers/``.

    Raises:
        RecipeError: it is not one that is built.
        MachineError: the base cannot be fetched, or the disk is full.
        StageError: a step failed; the message quotes its last lines.
    """
    if not image.build:
        raise RecipeError(
            f"image '{image.name}' is not built but pulled",
            hint="there is nothing to do: a run pulls it by its digest",
            rule="usage",
        )
    if not options.platform:
        require_platform(image, client)
    base = options.base or _base(image, client, options, tell)
    arguments = {"BASE": base} | ({"PIP_INDEX_URL": options.packages} if options.packages else {})
    log = BuildLog(tell)
    with refusals(f"building image '{image.name}'"):
        for part in client.api.build(
            path=str(folder or containers_folder()),
            dockerfile=f"{image.build}/Dockerfile",
            tag=image.reference,
            buildargs=arguments,
            network_mode=options.network or None,
            platform=options.platform or None,
            labels={LABEL: image.name},
            timeout=BUILD_SECONDS,
            rm=True,
            forcerm=True,
            decode=True,
        ):
            log.add(str(part.get("stream", "")))
            if message := stream_error(part):
                log.add("\n")
                raise build_failure(image, base, log.step, log.lines, message)
    found = find(image, client)
    if found is None:
        raise StageError(f"built {image.reference}, but the engine does not have it", rule="engine")
    return found


def build_failure(image: Image, base: str, step: str, lines: Iterable[str], message: str) -> SpeculatorsError:
    """Why a build ended, with the failing step and what it said last."""
    if FULL in message.lower():
        return refusal(message, f"building image '{image.name}'")
    if not step or "FROM " in step:
        return pull_failure(base, message)
    quoted = "\n".join(f"  | {line}" for line in lines)
    return StageError(
        f"building image '{image.name}' failed in {step}\n{quoted}\n  {message}",
        hint=f"mend containers/{image.build}, then: speculators images build {image.name}",
        rule="build-failed",
    )


def _base(image: Image, client: Any, options: BuildOptions, tell: Tell) -> str:
    """The reference that the Dockerfile starts from; another row of ours is fetched and checked first."""
    row = load_images().images.get(image.base)
    if row is None:
        return image.base
    if not options.platform:
        ensure(row, client, tell=tell)
    return by_digest(row)
