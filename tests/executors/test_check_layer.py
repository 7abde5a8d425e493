"""The last step of a layered image's build: packages that do not fit together end it, by name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from speculators.executors.images import containers_folder

PROGRAM = containers_folder() / "check_layer.py"
BASE = {"imagebase": ("2.0", ["imagelib<3,>=1"])}


def checked(tmp_path: Path, installed: Mapping[str, tuple[str, list[str]]], pins: str) -> str:
    """What the step says of an image with these packages; empty when it passes."""
    for name, (version, needs) in installed.items():
        folder = tmp_path / "site" / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        (folder / "METADATA").write_text(
            "\n".join([*lines, *(f"Requires-Dist: {need}" for need in needs), ""])
        )
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(pins)
    environ = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, str(PROGRAM), str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert (done.returncode == 0) == (done.stderr == "")
    return done.stderr


def test_a_layer_that_fits_passes(tmp_path: Path) -> None:
    installed = BASE | {
        "imagelib": ("2.5", []),
        "Image_Top": ("1.0", ["imagelib>=2", "absent; extra == 'x'"]),
    }
    pins = "# a comment\nimage-top==1.0 \\\n    --hash=sha256:00\nimagelib==2.5 \\\n    --hash=sha256:11\n"
    assert checked(tmp_path, installed, pins) == ""


@pytest.mark.parametrize(
    ("installed", "pins", "said"),
    [
        ({}, "imagetop==1.0\n", "imagetop 1.0 is not installed"),
        ({"imagetop": ("1.1", [])}, "imagetop==1.0\n", "imagetop is 1.1, not 1.0"),
        ({"imagetop": ("1.0", ["gone>1"])}, "imagetop==1.0\n", "imagetop needs gone>1, which is absent"),
        (
            BASE | {"imagelib": ("2.5", []), "imagetop": ("1.0", ["imagelib>=2.6"])},
            "imagetop==1.0\n",
            "imagetop needs imagelib>=2.6, which is 2.5",
        ),
        (BASE | {"imagelib": ("3.1", [])}, "imagelib==3.1\n", "imagebase needs imagelib<3,>=1, which is 3.1"),
    ],
)
def test_a_layer_that_does_not_fit_says_what(
    tmp_path: Path, installed: dict[str, tuple[str, list[str]]], pins: str, said: str
) -> None:
    assert said in checked(tmp_path, installed, pins)


def test_what_was_wrong_in_the_base_already_is_not_the_layers_fault(tmp_path: Path) -> None:
    installed = {"imagebase": ("2.0", ["imagelib>9"]), "imagelib": ("1.0", []), "imagetop": ("1.0", [])}
    assert checked(tmp_path, installed, "imagetop==1.0\n") == ""
