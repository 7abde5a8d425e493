"""Images of our own making: equal bytes on repeat, and the identity that an engine will give them."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.engine.archive import Built, Layer, Link, Text, write_image
from tests.engine.daemon import client
from tests.engine.fixtures import load
from tests.engine.images import small_image as write_small_image
from tests.engine.libraries import libraries


def test_an_image_written_twice_has_the_same_bytes(tmp_path: Path) -> None:
    first, second = write_small_image(tmp_path / "a.tar"), write_small_image(tmp_path / "b.tar")
    assert first == second._replace(archive=first.archive)
    assert first.archive.read_bytes() == second.archive.read_bytes()


def test_neither_the_order_nor_the_time_of_files_matters_but_their_content_does(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)

    def image(archive: str, *names: str) -> Built:
        layer = Layer()
        for name in names:
            layer.add(tmp_path / name, f"/data/{name}")
        return write_image(tmp_path / archive, "tests/order", [layer])

    first = image("a.tar", "one", "two")
    os.utime(tmp_path / "one", (0, 0))
    assert image("b.tar", "two", "one").config == first.config
    (tmp_path / "one").write_text("eno")
    changed = image("c.tar", "one", "two")
    assert changed.config != first.config
    assert changed.layers != first.layers


def test_a_layer_is_a_tar_with_one_owner_and_the_links_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("#!/bin/sh\n")
    (tmp_path / "run").chmod(0o700)
    (tmp_path / "link").symlink_to("run")
    layer = Layer()
    layer.add_tree(tmp_path, "/opt/tools")
    layer.put("/bin/called", Link("/opt/tools/run"))
    layer.put("/tmp/note", Text(b"n"))
    built = write_image(tmp_path.with_suffix(".tar"), "tests/layer", [layer])
    with tarfile.open(built.archive) as archive:
        blob = archive.extractfile(f"blobs/{built.layers[0].replace(':', '/')}")
        with tarfile.open(fileobj=blob) as tar:
            found = {member.name: member for member in tar}
    assert found["opt/tools/link"].linkname == "run"
    assert found["opt/tools/run"].mode == 0o755
    assert found["usr/bin/called"].issym()
    assert found["tmp"].mode == 0o1777
    assert {(member.uid, member.gid, member.uname) for member in found.values()} == {(0, 0, "")}


def test_a_stale_compiled_file_stays_behind(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text("x = 1\n")
    subprocess.run([sys.executable, "-m", "compileall", "-q", tmp_path], check=True)

    def compiled() -> list[str]:
        layer = Layer()
        layer.add_tree(tmp_path, "/lib/own")
        return [place for place in layer.entries if place.endswith(".pyc")]

    assert compiled() == [f"usr/lib/own/__pycache__/module.{sys.implementation.cache_tag}.pyc"]
    source.write_text("x = 12\n")
    assert compiled() == []


def test_the_libraries_of_a_program_are_those_that_its_loader_maps() -> None:
    found = {path.resolve() for path in libraries([Path(sys.executable)], [Path(sys.base_prefix, "lib")])}
    maps = Path("/proc/self/maps").read_text()
    assert found
    assert all(str(path) in maps for path in found)
    assert any(path.name.startswith("libc.so") for path in found)


def test_a_file_that_is_no_program_needs_nothing(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    (tmp_path / "empty").touch()
    assert libraries([tmp_path / "text", tmp_path / "empty"]) == set()


@pytest.mark.integration
def test_the_engine_gives_an_image_the_identity_that_was_predicted(
    engine: str, small_image: Built, tmp_path: Path
) -> None:
    docker = client(engine)
    image = docker.images.get(small_image.reference)
    assert image.id in (small_image.config, small_image.manifest)
    assert tuple(image.attrs["RootFS"]["Layers"]) == small_image.layers
    again = write_small_image(tmp_path / "again.tar")
    assert load(engine, again) == image.id
    docker.close()


@pytest.mark.integration
def test_a_program_runs_in_the_small_image_as_a_foreign_user(engine: str, small_image: Built) -> None:
    said = output(engine, small_image, ["sh", "-c", "id -u; ls -d /tmp"], user="4321:4321")
    assert said == "4321\n/tmp\n"


@pytest.mark.integration
def test_the_light_modules_import_in_the_python_image(engine: str, python_image: Built) -> None:
    code = "import sys, speculators.stages.table, speculators.cli.app; print(sys.base_prefix)"
    checkout = Path(__file__).parents[2]
    said = output(
        engine,
        python_image,
        ["python3", "-c", code],
        user="4321:4321",
        environment={"PYTHONPATH": "/opt/speculators"},
        volumes={str(checkout): {"bind": "/opt/speculators", "mode": "ro"}},
    )
    assert said == f"{sys.base_prefix}\n"


@pytest.mark.integration
def test_a_folder_is_added_as_a_layer_of_its_own(engine: str, small_image: Built, tmp_path: Path) -> None:
    (tmp_path / "added").mkdir()
    (tmp_path / "added" / "word").write_text("added")
    built = write_small_image(tmp_path / "x.tar", add=[(tmp_path / "added", "/srv/added")])
    assert built.layers[:-1] == small_image.layers
    load(engine, built)
    assert built.reference != small_image.reference
    assert output(engine, built, ["cat", "/srv/added/word"]) == "added"


def output(base_url: str, built: Built, command: list[str], **options: object) -> str:
    """What ``command`` says in a container without a network, a writable root or capabilities."""
    docker = client(base_url)
    container = docker.containers.create(
        built.reference, command, network_mode="none", read_only=True, cap_drop=["ALL"], **options
    )
    try:
        container.start()
        code = container.wait()["StatusCode"]
        said: str = container.logs().decode()
        assert code == 0, said
        return said
    finally:
        container.remove(force=True)
        docker.close()
