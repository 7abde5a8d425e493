"""The newer engine hands over a fake graphics card, and gives our images the predicted identity."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.archive import Built
from tests.engine.daemon import client
from tests.engine.fixtures import load
from tests.engine.images import small_image as write_small_image

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def docker(newer_engine: str) -> Iterator[Any]:
    opened = client(newer_engine)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def image(newer_engine: str, tmp_path_factory: pytest.TempPathFactory) -> Built:
    built = write_small_image(tmp_path_factory.mktemp("newer") / "small.tar")
    assert load(newer_engine, built) == built.config
    return built


def test_it_is_newer_than_cdi(docker: Any) -> None:
    assert int(docker.version()["Version"].split(".")[0]) >= 26


def test_a_fake_card_is_handed_over_by_cdi(docker: Any, image: Built) -> None:
    assert card(docker, image, "nvidia.com/gpu=all") == "all\n/dev/nvidia1\n"


def test_a_card_that_is_not_there_is_an_error(docker: Any, image: Built) -> None:
    import docker as sdk

    with pytest.raises(sdk.errors.APIError, match=r"nvidia.com/gpu=7"):
        card(docker, image, "nvidia.com/gpu=7")


def test_folders_of_the_host_have_the_same_paths_in_it(docker: Any, image: Built, tmp_path: Path) -> None:
    (tmp_path / "word").write_text("same")
    container = docker.containers.create(
        image.reference,
        ["cat", str(tmp_path / "word")],
        network_mode="none",
        volumes={str(tmp_path): {"bind": str(tmp_path), "mode": "ro"}},
    )
    assert said(container) == "same"


def test_an_image_is_its_manifest_where_images_are_kept_the_oci_way(oci_engine: str, tmp_path: Path) -> None:
    built = write_small_image(tmp_path / "small.tar")
    assert load(oci_engine, built) == built.manifest
    opened = client(oci_engine)
    image = opened.images.get(built.reference)
    assert tuple(image.attrs["RootFS"]["Layers"]) == built.layers
    opened.close()


def card(docker: Any, image: Built, device: str) -> str:
    from docker.types import DeviceRequest

    container = docker.containers.create(
        image.reference,
        ["sh", "-c", "echo $FAKE_GPU; ls /dev/nvidia*"],
        network_mode="none",
        device_requests=[DeviceRequest(driver="cdi", device_ids=[device])],
    )
    return said(container)


def said(container: Any) -> str:
    try:
        container.start()
        container.wait()
        return str(container.logs().decode())
    finally:
        container.remove(force=True)
