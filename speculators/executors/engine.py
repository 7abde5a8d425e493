"""The container engine: Docker or Podman behind one socket, found, and its refusals in words.

The engine's own messages name neither the recipe nor the way out, and both engines say the same thing
differently; ``refusal`` is the table that turns them into ours.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from speculators.errors import MachineError, SpeculatorsError, StageError

#: The oldest API that was tried: Docker 20.10, Podman 4.
OLDEST_API = (1, 41)
#: Before this, Podman ignores requests for GPUs and does not notice that memory ran out, without a word.
FRANK_PODMAN = (5, 0)
DOCKER, PODMAN = "docker", "podman"
DOCKER_SOCKET = "unix:///var/run/docker.sock"
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

    @property
    def is_silent(self) -> bool:
        return is_silent(self.kind, self.version)


def connect(environ: Mapping[str, str] = os.environ) -> Engine:
    """The engine at ``DOCKER_HOST``, else Docker's at its usual socket, else Podman's at its own.

    Raises:
        MachineError: the SDK is not installed, nothing answers, or the engine is too old or elsewhere.
    """
    refused = {}
    for place in places(environ):
        try:
            return at(place, environ)
        except _NoAnswerError as error:
            refused[place] = str(error)
    told = "; ".join(f"{place}: {reason}" for place, reason in refused.items())
    raise MachineError(
        f"no container engine answers at {told}",
        hint="start Docker or Podman's socket, name it with DOCKER_HOST, see that this user may use it; "
        "or run with --executor local",
        rule="no-container-engine",
    )


class _NoAnswerError(Exception):
    """Nothing that speaks the engine's protocol is there."""


def places(environ: Mapping[str, str]) -> list[str]:
    """Addresses where an engine may be, the likeliest first; of Podman's only those that are there."""
    if place := environ.get("DOCKER_HOST"):
        return [place]
    folders = ["/run", *filter(None, [environ.get("XDG_RUNTIME_DIR")])]
    sockets = [Path(folder, "podman", "podman.sock") for folder in folders]
    return [DOCKER_SOCKET, *(f"unix://{socket}" for socket in sockets if socket.exists())]


def at(place: str, environ: Mapping[str, str]) -> Engine:
    """The engine at ``place``.

    Raises:
        MachineError: it is too old, or elsewhere, or the SDK is not installed.
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
    try:
        client = docker.from_env(version="auto", environment={**environ, "DOCKER_HOST": place})
        known = client.version()
    except (docker.errors.DockerException, OSError) as error:
        raise _NoAnswerError(sentence(error)) from error
    parts = [str(part.get("Name", "")) for part in known.get("Components") or []]
    engine = Engine(client, PODMAN if any("Podman" in part for part in parts) else DOCKER, known["Version"])
    require_here(engine.kind, place)
    if numbers(str(known.get("ApiVersion", "0"))) < OLDEST_API:
        raise MachineError(
            f"{engine.spelled()} speaks API {known.get('ApiVersion')}",
            hint="install Docker 20.10, Podman 4, or newer",
            rule="no-container-engine",
        )
    return engine


def require_here(kind: str, place: str) -> None:
    """Refuse an engine that would not say that it does not see our folders.

    Raises:
        MachineError: it is Podman, and not behind a socket of this machine.
    """
    if kind == PODMAN and place and not place.startswith("unix://"):
        raise MachineError(
            f"Podman at {place} may be on another machine, where it makes empty folders of those it lacks",
            hint="set DOCKER_HOST to its socket on this machine, such as unix:///run/podman/podman.sock",
            rule="engine-elsewhere",
        )


def is_silent(kind: str, version: str) -> bool:
    """Whether this engine leaves unsaid that it has no GPU to give, and that memory ran out."""
    return kind == PODMAN and numbers(version) < FRANK_PODMAN


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
        ("container-init binary not found",),
        "the engine lacks the first process that a container gets",
        "install catatonit, or name one as init_path in containers.conf",
        "engine-setup",
    ),
    Refusal(
        ("setting rlimit", "setrlimit"),
        "the engine may not set the limits that it gives to containers",
        'in containers.conf, set default_ulimits to what is allowed here: ["nofile=N:N", "nproc=N:N"]',
        "engine-setup",
    ),
    Refusal(
        ("cgroups in hybrid mode not supported",),
        "the engine's runtime cannot work with this machine's cgroups",
        'install runc, and set runtime = "runc" in containers.conf',
        "engine-setup",
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
