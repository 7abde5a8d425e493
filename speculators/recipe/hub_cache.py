"""Where the Hugging Face client keeps what it has fetched, read without that client.

Stages run offline: what a recipe names on the hub is used from this cache or not at all.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

MODELS, DATASETS = "models", "datasets"
#: A file of a dataset, as huggingface_hub's file system spells it; a slash in a revision is %2F there.
DATA_FILE = re.compile(r"hf://datasets/([A-Za-z0-9][\w.-]*/[\w.-]+)@([^/@\s]+)/([^\s/][^\s]*)")


class HubFile(NamedTuple):
    """A file of a dataset on the hub at a revision."""

    repository: str
    revision: str
    path: str

    def cached(self, environ: Mapping[str, str]) -> Path | None:
        """Where the local cache has it; None where it was not fetched."""
        folders = snapshots(self.repository, self.revision, environ, DATASETS)
        return next((folder / self.path for folder in folders if os.path.isfile(folder / self.path)), None)


def hub_file(name: str) -> HubFile | None:
    """The file of a dataset that ``hf://datasets/owner/name@revision/path`` stands for; None for others."""
    match = DATA_FILE.fullmatch(name)
    if match is None or ".." in match[3].split("/"):
        return None
    return HubFile(match[1], unquote(match[2]), match[3])


def name_in_cache(path: Path) -> str | None:
    """A dataset's file by repository, commit and name, where ``path`` lies in a cache; else None."""
    parts = path.parts
    for place, part in enumerate(parts[:-3]):
        if part.startswith(f"{DATASETS}--") and parts[place + 1] == "snapshots":
            repository = part.removeprefix(f"{DATASETS}--").replace("--", "/", 1)
            return f"{repository}@{parts[place + 2]}/{os.path.join(*parts[place + 3 :])}"
    return None


def cache_folder(environ: Mapping[str, str]) -> Path:
    """The folder of cached repositories, found as huggingface_hub's constants.py does."""
    if cache := environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(cache).expanduser()
    if home := environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    base = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "~")) / ".cache"
    return Path(base).expanduser() / "huggingface" / "hub"


def repository_folder(repository: str, environ: Mapping[str, str], kind: str = MODELS) -> Path:
    """Where the cache keeps all that it has of the model ``owner/name``, or of the dataset."""
    return cache_folder(environ) / f"{kind}--{repository.replace('/', '--')}"


def snapshots(
    repository: str, revision: str, environ: Mapping[str, str], kind: str = MODELS
) -> Iterator[Path]:
    """The cached folders of ``owner/name`` at a commit, or at what a branch or tag last pointed to."""
    model = repository_folder(repository, environ, kind)
    commits = [revision]
    with contextlib.suppress(OSError, ValueError):  # a commit has no ref
        commits.append((model / "refs" / revision).read_text(encoding="utf-8").strip())
    for commit in commits:
        folder = model / "snapshots" / commit
        if os.path.isdir(folder):  # Path.is_dir raises where a name is too long
            yield folder


def model_folder(name: str, folder: Path, environ: Mapping[str, str]) -> Path | None:
    """Where a model lies that a recipe in ``folder`` calls ``name``; None where it is not here.

    A folder, or ``owner/name@revision`` in the cache.
    """
    place = folder / name
    if os.path.isdir(place):
        return place
    repository, _, revision = name.rpartition("@")
    return next(snapshots(repository, revision, environ), None) if repository else None
