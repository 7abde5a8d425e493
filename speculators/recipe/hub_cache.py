"""Where the Hugging Face client keeps what it has fetched, read without that client.

Stages run offline: what a recipe names on the hub is used from this cache or not at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path


def cache_folder(environ: Mapping[str, str]) -> Path:
    """The folder of cached repositories, found as huggingface_hub's constants.py does."""
    if cache := environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(cache).expanduser()
    if home := environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    base = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "~")) / ".cache"
    return Path(base).expanduser() / "huggingface" / "hub"


def repository_folder(repository: str, environ: Mapping[str, str]) -> Path:
    """Where the cache keeps all that it has of the model ``owner/name``."""
    return cache_folder(environ) / f"models--{repository.replace('/', '--')}"


def snapshots(repository: str, revision: str, environ: Mapping[str, str]) -> Iterator[Path]:
    """The cached folders of ``owner/name`` at a commit, or at what a branch or tag last pointed to."""
    model = repository_folder(repository, environ)
    commits = [revision]
    with contextlib.suppress(OSError, ValueError):  # a commit has no ref
        commits.append((model / "refs" / revision).read_text(encoding="utf-8").strip())
    for commit in commits:
        folder = model / "snapshots" / commit
        if folder.is_dir():
            yield folder
