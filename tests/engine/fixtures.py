"""A real engine and its images for tests, once a session; started only when a test asks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest

from tests.engine import images
from tests.engine.archive import Built, Layer, write_tar
from tests.engine.daemon import client, running_engine
from tests.engine.newer import newer_root, running_newer_engine, running_newer_podman
from tests.engine.packages import AbsentError
from tests.engine.podman import running_podman
from tests.engine.registry import Registry, running_registry
from tests.needs import leave_out

T = TypeVar("T")
LOAD_SECONDS = 900.0


@contextmanager
def present(what: AbstractContextManager[T], name: str) -> Iterator[T]:
    """``what``, or the test's end for want of it."""
    with ExitStack() as stack:
        try:
            found = stack.enter_context(what)
        except AbsentError as error:
            leave_out(f"no {name}: {error}")
        yield found


@pytest.fixture(scope="session")
def engine() -> Iterator[str]:
    """The base URL of a running engine."""
    with present(running_engine(), "container engine") as base_url:
        yield base_url


@pytest.fixture(scope="session")
def podman_engine() -> Iterator[str]:
    """The base URL of a running Podman."""
    with present(running_podman(), "Podman") as base_url:
        yield base_url


@pytest.fixture(scope="session")
def newer_docker_root() -> Iterator[Path]:
    """The root that newer engines run from."""
    with present(newer_root(), "newer container engine") as root:
        yield root


@pytest.fixture(scope="session")
def newer_engine(newer_docker_root: Path) -> Iterator[str]:
    """The base URL of a newer engine that knows the fake graphics cards nvidia.com/gpu=0 and =all by CDI."""
    with present(running_newer_engine(newer_docker_root), "newer container engine") as base_url:
        yield base_url


@pytest.fixture(scope="session")
def newer_podman(newer_docker_root: Path) -> Iterator[str]:
    """The base URL of a newer Podman that knows the same cards."""
    with present(running_newer_podman(newer_docker_root), "newer Podman") as base_url:
        yield base_url


@pytest.fixture(scope="session")
def oci_engine(newer_docker_root: Path) -> Iterator[str]:
    """The base URL of a newer engine that keeps images in containerd's store, by their manifests' digests."""
    with present(running_newer_engine(newer_docker_root, oci=True), "newer container engine") as base_url:
        yield base_url


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    """A running registry that engines of this machine can pull from."""
    with present(running_registry(), "registry") as running:
        yield running


@pytest.fixture(scope="session")
def small_image(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """A shell and common programs, loaded."""
    yield from _loaded(engine, images.small_image, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def python_image(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """``python3`` with what the project's light modules need, loaded."""
    yield from _loaded(engine, images.python_image, tmp_path_factory.mktemp("python"))


@pytest.fixture(scope="session")
def podman_image(podman_engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """The same as ``python_image``, in Podman."""
    yield from _loaded(podman_engine, images.python_image, tmp_path_factory.mktemp("podman"))


@pytest.fixture(scope="session")
def whole_image(engine: str) -> Iterator[str]:
    """The whole environment of this test session at /opt/venv, by its name; gigabytes."""
    name = f"{images.REPOSITORY}/environment:whole"
    import_layer(engine, name, images.environment_layer())
    yield name
    _remove(engine, name)


def import_layer(base_url: str, name: str, layer: Layer) -> None:
    """Make an image of ``layer`` in the engine while the layer is written: nothing lies on the disk twice."""
    reader, writer = os.pipe()

    def write() -> None:
        with os.fdopen(writer, "wb") as file:
            write_tar(file, layer)

    repository, _, tag = name.partition(":")
    with (
        closing(client(base_url, LOAD_SECONDS)) as docker,
        os.fdopen(reader, "rb") as file,
        ThreadPoolExecutor() as pool,
    ):
        writing = pool.submit(write)
        try:
            docker.api.import_image(file, repository, tag, changes=images.CHANGES, stream_src=True)
        finally:
            file.close()  # else a writer would wait for an engine that has given up
        writing.result()


def load(base_url: str, built: Built) -> str:
    """Load ``built`` into the engine; the Id that the engine gives it."""
    docker = client(base_url, LOAD_SECONDS)
    try:
        with built.archive.open("rb") as file:
            (image,) = docker.images.load(file)
        return str(image.id)
    finally:
        docker.close()


def _loaded(base_url: str, write: Callable[[Path], Built], folder: Path) -> Iterator[Built]:
    built = write(folder / "image.tar")
    load(base_url, built)
    # The engine has it now; the largest of them is gigabytes.
    built.archive.unlink()
    yield built
    _remove(base_url, built.reference)


def _remove(base_url: str, name: str) -> None:
    import docker

    with closing(client(base_url, LOAD_SECONDS)) as engine, suppress(docker.errors.APIError):
        engine.images.remove(name, force=True)
