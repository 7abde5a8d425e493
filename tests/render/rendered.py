"""Recipes, images and folders that the tests of this room share."""

from __future__ import annotations

import os
from pathlib import Path

from speculators.executors.images import Image, load_images
from speculators.recipe.recipe import Recipe, require_recipe
from tests.engine.packages import AbsentError, program
from tests.needs import leave_out

ROOT = Path(__file__).parents[2]
QWEN = ROOT / "recipes" / "qwen3-8b-eagle3.yaml"
SMOLLM = ROOT / "recipes" / "smollm2-135m-eagle3.yaml"
#: No image has this digest: these tests pull nothing.
DIGEST = "sha256:" + "0123456789abcdef" * 4
SETTINGS = (
    "container.images=cuda",
    "container.gpus=2",
    "container.memory=64G",
    "container.time_limit=86399",
    "container.secrets=[HF_TOKEN]",
)


def on_gpus(*settings: str) -> Recipe:
    return require_recipe(QWEN, [*SETTINGS, *settings])


def cuda_images(**more: str) -> dict[str, Image]:
    pushed = {
        "trainer": f"registry.example:5000/trainer:1@{DIGEST}",
        "bench": f"registry.example/b@{DIGEST[:-1]}0",
    }
    return load_images().roles("cuda", {**pushed, **more})


def cpu_images() -> dict[str, Image]:
    return load_images().roles("cpu", {"cpu": f"registry.example/cpu@{DIGEST}"})


def stand_in(folder: Path, name: str, text: str) -> None:
    """An executable shell script; put ``folder`` first on the PATH to have it stand in for ``name``."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/usr/bin/env bash\nset -eu\n{text}\n")
    (folder / name).chmod(0o755)


def compare_golden(folder: Path, texts: dict[str, str]) -> None:
    """Compare with the files of ``folder``, which SPECULATORS_ACCEPT_GOLDEN=1 replaces."""
    if os.environ.get("SPECULATORS_ACCEPT_GOLDEN"):
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.iterdir():
            stale.unlink()
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    known = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert sorted(texts) == sorted(known)
    for name, text in texts.items():
        assert text == known[name], name


def required(command: str, package: str) -> str:
    """The path of ``command``, which Debian's ``package`` brings; root installs it where it is missing."""
    try:
        return program(command, package)
    except AbsentError as error:
        leave_out(str(error))
