"""A checkpoint by whatever name it is given: a folder of this machine or a repository of the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from speculators.errors import MachineError, RecipeError

REPOSITORY = re.compile(r"(?P<name>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w./-]+))?")

#: What a checkpoint consists of.  Pickled weights are never fetched: they could run code when read.
WANTED = ("*.json", "*.safetensors")


def local_folder(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: Path | None = None,
    wanted: Sequence[str] = WANTED,
) -> Path:
    """The folder that holds checkpoint ``name``: a path, or ``owner/name[@revision]`` of the hub.

    ``wanted``: patterns of the files that are fetched from there.

    The hub's own client looks into its cache first and honours ``HF_HUB_OFFLINE`` and ``HF_TOKEN``.

    Raises:
        RecipeError: there is no such folder, and the name is not one that a hub knows.
        MachineError: the hub's client is not installed, or neither cache nor hub gave the files.
    """
    path = Path(name)
    if path.is_dir():
        return path
    match = REPOSITORY.fullmatch(str(name))
    if match is None or path.exists():
        found = "is a file, not a checkpoint's folder" if path.exists() else "no such checkpoint folder"
        raise RecipeError(
            f"{name}: {found}",
            hint="name a folder with config.json and weights, or a hub repository owner/name[@revision]",
            rule="no-checkpoint",
        )
    return _from_hub(match["name"], revision or match["revision"], cache_dir, wanted)


def _from_hub(repository: str, revision: str | None, cache_dir: Path | None, wanted: Sequence[str]) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise MachineError(
            f"{repository}: there is no such folder, and the hub's client is not installed",
            hint="pip install 'speculators[hub]'",
            rule="no-checkpoint",
        ) from error
    try:
        return Path(
            snapshot_download(repository, revision=revision, cache_dir=cache_dir, allow_patterns=list(wanted))
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise MachineError(
            f"{repository}: neither a folder, nor in the local hub cache, nor to be had: {error}",
            hint=f"check the name, or fetch it where there is a network: hf download {repository}",
            rule="no-checkpoint",
        ) from error
