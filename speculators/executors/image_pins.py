"""What identifies an image wherever it lies, and which images a run may use.

Pure: engines and registries are asked in ``image_store.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speculators.documents import value_digest
from speculators.errors import RecipeError
from speculators.executors.images import Image


def contents_digest(inspected: Mapping[str, Any]) -> str:
    """What an image does, as ``sha256:<hex>``: its layers, and what its configuration sets for a process.

    Equal for the same image in every engine and image store, whereas the engine's own Id is the digest of
    the manifest in one and of the configuration in another.

    Args:
        inspected: what the engine's ``inspect`` says of the image.
    """
    config = inspected.get("Config") or {}
    return "sha256:" + value_digest(
        {
            "layers": _words((inspected.get("RootFS") or {}).get("Layers")),
            "config": {
                "Env": _variables(config.get("Env")),
                "Cmd": _words(config.get("Cmd")),
                "Entrypoint": _words(config.get("Entrypoint")),
                # Absent means the root folder, and some engines write that out.
                "WorkingDir": config.get("WorkingDir") or "/",
                "User": config.get("User") or "",
            },
            "os": inspected.get("Os") or "",
            "architecture": inspected.get("Architecture") or "",
        }
    )


def repository(reference: str) -> str:
    """``registry/name`` without tag and digest."""
    name, _, _ = reference.partition("@")
    before, colon, tag = name.rpartition(":")
    # A colon before a slash belongs to a registry's port.
    return before if colon and "/" not in tag else name


def by_digest(image: Image) -> str:
    """How an engine is asked for ``image``.

    A tag beside a digest says nothing more, and some engines refuse the two together.
    """
    return f"{repository(image.reference)}@{image.digest}" if image.digest else image.reference


def is_tested(image: Image, shipped: Mapping[str, Image]) -> bool:
    """Whether this project was tried in ``image``: a row of ``shipped``, or the same from elsewhere."""
    row = shipped.get(image.name)
    return image.tested or bool(image.digest and row and row.digest == image.digest)


def refuse_untested(images: Mapping[str, Image], shipped: Mapping[str, Image], allow: bool) -> None:
    """Refuse images that this project was not tried in, unless the caller takes that on.

    Args:
        images: the image of each role, as chosen.
        shipped: the rows of ``images.yaml``, by name.
        allow: ``--allow-untested``.

    Raises:
        RecipeError: an image was replaced by another one.
    """
    for role, image in images.items():
        if not (allow or is_tested(image, shipped)):
            raise RecipeError(
                f"{image.reference} as {role}: speculators was not tested in this image",
                hint="--allow-untested runs it all the same",
                rule="untested-image",
            )


def refuse_mutable(image: Image, pinned: str) -> None:
    """Refuse a bare tag, which names another image tomorrow, unless a lock says what it named.

    Raises:
        RecipeError: neither a digest nor a pin says which image is meant.
    """
    if not (image.digest or image.build or pinned):
        raise RecipeError(
            f"{image.reference} is a tag, and may name another image tomorrow",
            hint=f"name its digest, {repository(image.reference)}@sha256:…, or lock the recipe with it",
            rule="mutable-image",
        )


def _words(value: object) -> list[str]:
    """A command or a list of layers; engines spell an empty one null, [] or leave it out."""
    if isinstance(value, str):
        return [value] if value else []
    return [str(word) for word in value] if isinstance(value, list) else []


def _variables(lines: object) -> list[str]:
    """Environment variables by name; of a name that is set twice, the last one counts."""
    return sorted({line.partition("=")[0]: line for line in _words(lines)}.values())
