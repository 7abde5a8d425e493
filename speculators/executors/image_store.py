"""Images in a container engine: find one, fetch it by its digest, and prove that it is the one that is meant.

The engine's client is a parameter everywhere; nothing here decides which engine that is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from speculators.errors import MachineError, RecipeError, SpeculatorsError
from speculators.executors.engine import refusal, sentence
from speculators.executors.image_pins import by_digest, contents_digest, refuse_mutable, repository
from speculators.executors.images import Image
from speculators.quantities import duration, size
from speculators.recipe.suggestions import listing

LABEL = "org.speculators.images"
#: What engines say of a registry that they cannot talk to, in either engine's words.
UNREACHABLE = (
    "no such host",
    "connection refused",
    "connection reset",
    "dial tcp",
    "i/o timeout",
    "tls handshake",
    "network is unreachable",
    "server misbehaving",
    "temporary failure in name resolution",
    "context deadline exceeded",
    "pinging container registry",
    "http response to https client",
    "certificate signed by unknown authority",
)
DENIED = ("access denied", "unauthorized", "authentication required", "denied:", "no basic auth credentials")
UNKNOWN = ("manifest unknown", "not found", "not known to the registry", "no such image", "does not exist")
FULL = "no space left on device"
Tell = Callable[[str], None]


class Found(NamedTuple):
    """An image that is in the engine.

    ``id`` is the engine's own name for it, ``contents`` what identifies it in any engine; ``repo_digests``
    are the manifest digests it was pulled by.
    """

    id: str
    contents: str
    repo_digests: tuple[str, ...]
    platform: str
    size: int

    @property
    def digests(self) -> set[str]:
        """Every digest that stands for this image."""
        return {self.id, self.contents, *self.repo_digests}


def silent(line: str) -> None:
    """Tell nobody."""


def find(image: Image, client: Any) -> Found | None:
    """``image`` if the engine has it: by its digest under whatever name, or by its tag."""
    from docker.errors import NotFound

    with refusals(f"looking for {image.reference}"):
        # Under any name: where the engine's own Id is the manifest's digest, that finds it too.
        for name in filter(None, (by_digest(image), image.digest)):
            # Podman sometimes raises the parent of ImageNotFound.
            with suppress(NotFound):
                return _found(client.api.inspect_image(name))
        if image.digest:
            for listed in client.api.images():
                if image.digest in _repo_digests(listed):
                    return _found(client.api.inspect_image(listed["Id"]))
    return None


def ensure(image: Image, client: Any, *, pinned: str | None = "", tell: Tell = silent) -> Found:
    """``image`` in the engine, pulled if need be, and proved to be the one that is meant.

    Args:
        image: what the recipe's set or ``--image`` says.
        client: the engine's.
        pinned: the digest that a lock holds for it, of its manifest or of its contents; empty when there is
            none, None when one is about to be written.
        tell: gets a line when a pull starts and one when it ends.

    Raises:
        RecipeError: a bare tag without a pin; or the registry or the engine has something else.
        MachineError: an image that is built here has not been; the registry does not answer; wrong platform.
    """
    if pinned is not None:
        refuse_mutable(image, pinned)
    require_platform(image, client)
    found = find(image, client)
    if found is None and image.build:
        raise MachineError(
            f"image '{image.name}' ({image.reference}) is not in this engine",
            hint=f"speculators images build {image.name}",
            rule="no-image",
        )
    return require_same(image, found or pull(image, client, tell), pinned or "")


def require_same(image: Image, found: Found, pinned: str) -> Found:
    """``found``, if it is what the reference's digest and the pin say.

    Raises:
        RecipeError: it is something else.
    """
    for expected, source in ((image.digest, "its reference"), (pinned, "the lock")):
        if expected and expected not in found.digests:
            names = found.repo_digests if expected == image.digest else (found.contents,)
            here = listing(names) or "none"
            raise RecipeError(
                f"{image.reference} is not the image of {source}: expected {expected}, found {here}",
                hint="bring the old one back, or look at what is new in it and then lock the recipe anew",
                rule="image-differs",
            )
    return found


def require_platform(image: Image, client: Any) -> None:
    """Refuse an image that was never made for the engine's machine.

    Raises:
        MachineError: none of its platforms is the engine's.
    """
    with refusals("asking the engine for its version"):
        version = client.version()
    here = f"{version.get('Os', 'linux')}/{version.get('Arch', '')}"
    if image.platforms and here not in image.platforms:
        raise MachineError(
            f"image '{image.name}' runs on {' and '.join(image.platforms)}; this engine is {here}",
            hint="use an engine on such a machine, or another set of images",
            rule="platform",
        )


def pull(image: Image, client: Any, tell: Tell = silent) -> Found:
    """Fetch ``image`` from its registry.

    Raises:
        RecipeError: the registry does not have it.
        MachineError: the registry does not answer, or wants a login; the engine's disk is full.
    """
    tell(f"pulling {by_digest(image)}")
    started = time.monotonic()
    name = repository(image.reference)
    tag = image.digest or image.reference.removeprefix(name).removeprefix(":") or "latest"
    with refusals(f"pulling {image.reference}", image.reference):
        for line in client.api.pull(name, tag=tag, stream=True, decode=True):
            if message := stream_error(line):
                raise pull_failure(image.reference, message)
    found = find(image, client)
    if found is None:
        raise pull_failure(image.reference, "the engine says it was pulled, but has no such image: not found")
    tell(f"pulled {by_digest(image)}: {size(found.size)} in {duration(time.monotonic() - started)}")
    return found


@contextmanager
def refusals(doing: str, reference: str = "") -> Iterator[None]:
    """The engine's own errors as ours; ``reference``: what it was to fetch, if anything."""
    from requests.exceptions import RequestException

    try:
        yield
    except api_error() as error:
        said = sentence(error)
        raise pull_failure(reference, said) if reference else refusal(said, doing) from error
    except RequestException as error:
        raise MachineError(
            f"{doing}: the container engine went away: {sentence(error)}",
            hint="start Docker, or set DOCKER_HOST to the engine's address",
            rule="no-container-engine",
        ) from error


def pull_failure(reference: str, said: str) -> SpeculatorsError:
    """Why ``reference`` did not come, from the engine's words."""
    lowered = said.lower()
    if FULL in lowered:
        return refusal(said, f"pulling {reference}")
    if any(words in lowered for words in UNREACHABLE):
        hint = (
            "check the network, or name a mirror that has the same digest: --image NAME=MIRROR/NAME@sha256:…"
        )
        return MachineError(
            f"the registry of {reference} does not answer: {said}", hint=hint, rule="registry"
        )
    if any(words in lowered for words in DENIED):
        hint = "check the name, and log in to its registry: docker login REGISTRY"
        return MachineError(
            f"the registry does not give {reference} to us: {said}", hint=hint, rule="registry"
        )
    if any(words in lowered for words in UNKNOWN):
        hint = "check its name and digest; a mirror may not have this image yet"
        return RecipeError(f"no registry has {reference}: {said}", hint=hint, rule="unknown-images")
    return refusal(said, f"pulling {reference}")


def _found(inspected: dict[str, Any]) -> Found:
    return Found(
        id=inspected["Id"],
        contents=contents_digest(inspected),
        repo_digests=_repo_digests(inspected),
        platform=f"{inspected.get('Os', '')}/{inspected.get('Architecture', '')}",
        size=int(inspected.get("Size") or 0),
    )


def _repo_digests(inspected: dict[str, Any]) -> tuple[str, ...]:
    names = inspected.get("RepoDigests") or []
    return tuple(sorted({name.partition("@")[2] for name in names if "@" in name}))


def stream_error(part: dict[str, Any]) -> str:
    """The error in one part of an engine's answer stream."""
    return " ".join(str((part.get("errorDetail") or {}).get("message") or part.get("error") or "").split())


def api_error() -> type[Exception]:
    """The SDK's class for a refusal; the SDK is not loaded before it is used."""
    from docker.errors import APIError

    error: type[Exception] = APIError
    return error
