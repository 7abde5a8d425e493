"""A real engine and its images for tests, once a session; started only when a test asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.engine import images
from tests.engine.archive import Built
from tests.engine.daemon import client, running_engine
from tests.engine.packages import AbsentError, required

LOAD_SECONDS = 900.0


def absent(error: AbsentError) -> None:
    """End the test for want of what it needs: as a failure where its absence would hide failures."""
    if required():
        pytest.fail(f"no container engine, and one is required here: {error}", pytrace=False)
    pytest.skip(f"no container engine: {error}")


@pytest.fixture(scope="session")
def engine() -> Iterator[str]:
    """The base URL of a running engine."""
    engines = running_engine()
    try:
        base_url = engines.__enter__()
    except AbsentError as error:
        absent(error)
        raise
    yield base_url
    engines.__exit__(None, None, None)


@pytest.fixture(scope="session")
def small_image(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """A shell and common programs, loaded."""
    yield from _loaded(engine, images.small_image, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def python_image(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """``python3`` with what the project's light modules need, loaded."""
    yield from _loaded(engine, images.python_image, tmp_path_factory.mktemp("python"))


@pytest.fixture(scope="session")
def whole_image(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """The whole environment of this test session at its own path (``sys.prefix``), loaded; gigabytes."""
    yield from _loaded(engine, images.environment_image, tmp_path_factory.mktemp("environment"))


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
    import docker

    built = write(folder / "image.tar")
    load(base_url, built)
    # The engine has it now; the largest of them is gigabytes.
    built.archive.unlink()
    yield built
    engine = client(base_url)
    with suppress(docker.errors.APIError):
        engine.images.remove(built.reference, force=True)
    engine.close()
