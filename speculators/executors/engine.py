"""The container engine: Docker or Podman behind one socket, found, and its refusals in words.

The engine's own messages name neither the recipe nor the way out, and both engines say the same thing
differently; ``refusal`` is the table that turns them into ours.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from speculators.errors import MachineError, SpeculatorsError, StageError

#: The oldest API that was tried: Docker 20.10, Podman 4.
OLDEST_API = (1, 41)
#: Podman ignores GPU requests before this, without a word.
OLDEST_PODMAN = (5, 0)
DOCKER, PODMAN = "docker", "podman"
#: Every container of ours carries this one; its value is the run's id.
LABEL = "org.speculators.run"
#: The process that ends it, and when that was started; a container without it is nobody's any more.
CLIENT_LABEL = f"{LABEL}.client"


class Engine(NamedTuple):
    """A connected engine.  ``client``: the SDK's ``DockerClient``."""

    client: Any
    kind: str
    version: str

    def spelled(self) -> str:
        return f"{self.kind} {self.version}"


def connect(environ: Mapping[str, str] = os.environ) -> Engine:
    """The engine at ``DOCKER_HOST``, else at the usual socket.

    Raises:
        MachineError: the SDK is not installed, nothing answers, or the engine is too old.
    """
    try:
        import docker
        import docker.errors
    except ModuleNotFoundError:
        raise MachineError(
            "the Python package 'docker' is not installed",
            hint="pip install docker, or run with --executor local",
            rule="no-container-engine",
        ) from None
    place = environ.get("DOCKER_HOST") or "the usual socket"
    try:
        client = docker.from_env(version="auto", environment=dict(environ))
        known = client.version()
    except (docker.errors.DockerException, OSError) as error:
        raise MachineError(
            f"no container engine answers at {place}: {sentence(error)}",
            hint="start Docker or Podman's socket, name it with DOCKER_HOST, see that this user may use it; "
            "or run with --executor local",
            rule="no-container-engine",
        ) from error
    parts = [str(part.get("Name", "")) for part in known.get("Components") or []]
    engine = Engine(client, PODMAN if any("Podman" in part for part in parts) else DOCKER, known["Version"])
    if numbers(str(known.get("ApiVersion", "0"))) < OLDEST_API:
        raise MachineError(
            f"{engine.spelled()} speaks API {known.get('ApiVersion')}",
            hint="install Docker 20.10, Podman 4, or newer",
            rule="no-container-engine",
        )
    return engine


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: ``5.4.2-rhel`` -> (5, 4, 2)."""
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, leading[0].split("."))) if leading else ()


class Refusal(NamedTuple):
    """Words in an engine's message, and what they mean for a user."""

    words: tuple[str, ...]
    message: str
    hint: str
    rule: str
    error: type[SpeculatorsError] = MachineError


REFUSALS = (
    Refusal(
        ("could not select device driver", "unresolvable cdi devices", "cdi device injection failed"),
        "the engine has no GPU to give",
        "install the NVIDIA Container Toolkit and restart the engine, or set container.gpus to 0",
        "no-gpu",
    ),
    Refusal(
        ("bind source path does not exist",),
        "the engine does not see a folder that is here",
        "the engine must run on this machine: check DOCKER_HOST",
        "engine-elsewhere",
    ),
    Refusal(
        ("no such image", "image not known"), "the image is gone from the engine", "run again", "no-image"
    ),
    Refusal(
        ("no space left on device",),
        "the engine's disk is full",
        "make room where the engine keeps its data (docker system df)",
        "storage",
    ),
    Refusal(
        ("executable file not found", "no such file or directory: oci", "stat /", "exec format error"),
        "the image cannot run the stage's program",
        "take an image with the interpreter that images.yaml names, for this machine's architecture",
        "image-program",
    ),
    Refusal(
        ("permission denied",),
        "the engine was not allowed to",
        "see the engine's message; with SELinux or a rootless engine, folders may have to be shared first",
        "engine-permission",
    ),
)


def refusal(said: str, doing: str = "") -> SpeculatorsError:
    """What an engine's words mean, with the words themselves at the end; ``doing``: what it was to do."""
    place = f"{doing}: " if doing else ""
    for row in REFUSALS:
        if any(words in said.lower() for words in row.words):
            return row.error(f"{place}{row.message} ({said})", hint=row.hint, rule=row.rule)
    return StageError(f"{place}the container engine refused: {said}", rule="engine")


def sentence(error: Exception) -> str:
    """The engine's own words, without the request around them."""
    said = getattr(error, "explanation", None) or str(error)
    text = said.decode("utf-8", errors="replace") if isinstance(said, bytes) else str(said)
    return " ".join(text.split())
