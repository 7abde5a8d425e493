"""Which code of this project ran.

A release is named by its version.  In a checkout the version says nothing: there it is the commit, whether
the sources are still that commit's, and in any case their digest.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from speculators import __version__
from speculators.documents import file_digest, value_digest
from speculators.pipeline.keys import PACKAGE_ROOT

#: Folders that a wheel puts below the package; those of the checkout lie beside it.
GUESTS = ("schemas", "recipes", "containers")
#: A repository on a file system that hangs must not hang the run.
GIT_SECONDS = 10


def tool() -> dict[str, Any]:
    """What ``run.json`` says of it."""
    return {"version": __version__, "sha256": source_digest(PACKAGE_ROOT), **commit(PACKAGE_ROOT)}


def is_checkout(package: Path) -> bool:
    """Whether the package is not installed but lies in its repository, beside its data."""
    return not (package / GUESTS[0]).is_dir()


def commit(package: Path) -> dict[str, Any]:
    """``commit`` (hex) of the checkout around ``package``, and whether what is installed of it is ``dirty``.

    Empty for an installation, and where git is absent or refuses.
    """
    root = package.parent
    # A virtual environment may lie in another project's repository: only this very folder counts.
    if not (root / ".git").exists():
        return {}
    try:
        head = _git(root, "rev-parse", "--verify", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=all", "--", package.name, *GUESTS)
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": head, "dirty": bool(changed)}


def _git(root: Path, *words: str) -> str:
    # The variables of a hook that this runs in name another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(root), *words]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=GIT_SECONDS
    )
    return done.stdout.strip()


def source_digest(package: Path) -> str:
    """SHA-256 (hex) over the names and contents of a package's own files: the same in every installation."""
    files = {}
    for folder, folders, names in os.walk(package):
        place = Path(folder).relative_to(package)
        folders[:] = [
            name
            for name in folders
            if name != "__pycache__" and not name.startswith(".") and str(place / name) not in GUESTS
        ]
        for name in names:
            if not name.startswith(".") and not name.endswith(".pyc"):
                files[(place / name).as_posix()] = file_digest(Path(folder) / name)
    return value_digest(files)
