"""A real registry: pulls by digest, and what an engine says of digests that are not there."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.archive import Built
from tests.engine.daemon import client
from tests.engine.fixtures import load
from tests.engine.images import small_image as write_small_image
from tests.engine.registry import Registry

pytestmark = pytest.mark.integration


@pytest.fixture
def docker(engine: str) -> Iterator[Any]:
    opened = client(engine)
    yield opened
    opened.close()


def test_an_image_is_pulled_by_the_digest_that_the_registry_gave_it(
    engine: str, docker: Any, registry: Registry, small_image: Built
) -> None:
    reference = registry.push(engine, small_image)
    repository, _, digest = reference.partition("@")
    pulled = docker.images.pull(repository, digest)
    assert reference in pulled.attrs["RepoDigests"]
    assert tuple(pulled.attrs["RootFS"]["Layers"]) == small_image.layers
    docker.images.remove(reference)


def test_what_was_pushed_is_no_longer_on_the_engine_by_the_registrys_name(
    engine: str, docker: Any, registry: Registry, small_image: Built
) -> None:
    import docker as sdk

    reference = registry.push(engine, small_image)
    with pytest.raises(sdk.errors.NotFound):
        docker.images.get(f"{reference.partition('@')[0]}:pushed")


def test_a_digest_that_the_registry_does_not_have_is_not_found(
    engine: str, docker: Any, registry: Registry, small_image: Built
) -> None:
    import docker as sdk

    repository, _, digest = registry.push(engine, small_image).partition("@")
    wrong = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    with pytest.raises(sdk.errors.NotFound) as raised:
        docker.images.pull(repository, wrong)
    assert raised.value.status_code == 404


@pytest.mark.parametrize("part", ["manifest", "layer"])
def test_what_was_damaged_in_the_registry_is_refused(
    part: str, engine: str, docker: Any, registry: Registry, tmp_path: Path
) -> None:
    import docker as sdk

    # An image of its own: what an engine has seen of a digest, it does not ask for again.
    (tmp_path / "added").mkdir()
    (tmp_path / "added" / "part").write_text(part)
    built = write_small_image(tmp_path / "own.tar", add=[(tmp_path / "added", "/srv")])
    load(engine, built)
    repository, _, digest = registry.push(engine, built).partition("@")
    docker.images.remove(docker.images.get(built.reference).id, force=True)
    manifest = registry.blob(digest)
    damaged = manifest
    if part == "layer":
        damaged = registry.blob(json.loads(manifest.read_bytes())["layers"][-1]["digest"])
    flip_last_byte(damaged)
    with pytest.raises(sdk.errors.APIError):
        docker.images.pull(repository, digest)
    flip_last_byte(damaged)
    docker.images.pull(repository, digest)
    docker.images.remove(f"{repository}@{digest}")


def test_a_registry_that_is_not_there_is_an_error_and_no_hang(docker: Any) -> None:
    import docker as sdk

    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{place.getsockname()[1]}"
    with pytest.raises(sdk.errors.APIError):
        docker.images.pull(f"{address}/speculators-tests/small", f"sha256:{'0' * 64}")


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
