"""Which image each stage runs in, and what exactly that name stands for.

Pure: ``containers/images.yaml`` lists what ships, a recipe names a set of it, ``--image`` replaces one, and
the lock says by digest what all of it was when it was written.  Asking an engine is ``engine.py``'s work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from speculators.errors import RecipeError
from speculators.recipe.suggestions import did_you_mean

IMAGES_SCHEMA = "speculators/images/v1"
IMAGES_FILE = "containers/images.yaml"
#: The kinds of work that need different packages; every stage has one (``stages/table.py``).
ROLES = ("engine", "trainer", "bench")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Image(NamedTuple):
    """One row of ``images.yaml``, or an image named by ``--image``.

    ``reference``: ``repository[:tag][@sha256:digest]``.  ``python``: the interpreter inside.  ``build``: the
    folder below ``containers/`` that it is built from, empty when it is pulled; ``base``: a reference, or
    the name of another row.  ``tested``: whether this project ships it.
    """

    name: str
    reference: str
    python: str
    vllm: str
    device: str  # cpu | cuda
    platforms: tuple[str, ...]
    build: str = ""
    base: str = ""
    tested: bool = True

    @property
    def digest(self) -> str:
        """The manifest digest in the reference; empty for a tag, which may change under its user."""
        _, _, digest = self.reference.partition("@")
        return digest


class Images(NamedTuple):
    """The whole table."""

    images: dict[str, Image]
    sets: dict[str, dict[str, str]]

    def roles(self, chosen: str, replaced: Mapping[str, str] | None = None) -> dict[str, Image]:
        """The image of each role for the set ``chosen``.

        ``replaced``: from ``--image NAME=REF``, where NAME is a role or a row; a row's name replaces it
        in every role that has it.

        Raises:
            RecipeError: there is no such set, role or row, or a digest is none.
        """
        replaced = dict(replaced or {})
        if chosen not in self.sets:
            raise RecipeError(
                f"there is no set of images '{chosen}'",
                hint=did_you_mean(chosen, list(self.sets)) or f"there are {', '.join(self.sets)}",
                rule="unknown-images",
            )
        known = {*ROLES, *self.images}
        for name in replaced:
            if name not in known:
                hint = did_you_mean(name, sorted(known)) or f"there are {', '.join(sorted(known))}"
                raise RecipeError(f"--image {name}: no such role or image", hint=hint, rule="unknown-images")
        return {
            role: self._replaced(self.images[name], replaced.get(role) or replaced.get(name, ""))
            for role, name in self.sets[chosen].items()
        }

    @staticmethod
    def _replaced(image: Image, reference: str) -> Image:
        if not reference:
            return image
        _, at, digest = reference.partition("@")
        if at and not DIGEST.fullmatch(digest):
            raise RecipeError(
                f"--image {image.name}={reference}: '{digest}' is no digest",
                hint="a digest is sha256: and 64 hexadecimal digits",
                rule="unknown-images",
            )
        return image._replace(reference=reference, build="", base="", tested=False)


@cache
def load_images() -> Images:
    """The table that ships, from package data when installed, else from the checkout."""
    document = yaml.safe_load(images_text())
    rows = {name: _image(name, row) for name, row in document["images"].items()}
    return Images(rows, document["sets"])


def images_text() -> str:
    """``images.yaml`` as published."""
    return (containers_folder() / "images.yaml").read_text(encoding="utf-8")


def containers_folder() -> Path:
    """The folder with ``images.yaml`` and one folder an image that is built here."""
    packaged = Path(str(resources.files("speculators"))) / "containers"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "containers"


def _image(name: str, row: dict[str, Any]) -> Image:
    return Image(name, **{**row, "platforms": tuple(row["platforms"])})
