"""The run folder and ``run.json``: what was asked, what was done, on what, with which result.

The record is rewritten after every stage, so that a run that dies leaves the truth so far.  It
holds no host name, no user name and no value of a secret.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from speculators import __version__
from speculators.documents import value_digest, write_json, write_text
from speculators.recipe.recipe import Recipe

RUN_SCHEMA = "speculators/run/v1"


def machine() -> dict[str, Any]:
    """What kind of machine this is: processor, cores, memory, system."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _without_folders(word: str) -> str:
    """A command-line word; of an absolute path only its last part, for folders name people."""
    return Path(word).name if Path(word).is_absolute() else word


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


class RunRecord:
    """One run's folder, ``<runs>/<recipe>/<time>-<id>/``, and its growing record."""

    def __init__(self, runs_dir: Path, recipe: Recipe) -> None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        self.id = f"{stamp}-{secrets.token_hex(2)}"
        self.folder = runs_dir.absolute() / recipe.name / self.id
        self.folder.mkdir(parents=True)
        write_text(self.folder / "recipe.yaml", recipe.source_text)
        write_text(self.folder / "resolved.yaml", recipe.resolved_yaml())
        self._point_latest_here()
        self.document: dict[str, Any] = {
            "schema": RUN_SCHEMA,
            "id": self.id,
            "status": "running",
            "tool": {"version": __version__},
            "recipe": {
                "name": recipe.name,
                "sha256": value_digest(recipe.data),
                "overrides": list(recipe.overrides),
            },
            "arguments": [_without_folders(word) for word in sys.argv],
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "machine": machine(),
            "stages": [],
        }
        self.write()

    def _point_latest_here(self) -> None:
        latest = self.folder.parent / "latest"
        partial = latest.with_name(".latest.partial")
        partial.unlink(missing_ok=True)
        partial.symlink_to(self.folder.name)
        partial.replace(latest)

    def stage_folder(self, name: str) -> Path:
        folder = self.folder / "stages" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def add_stage(self, entry: dict[str, Any]) -> None:
        self.document["stages"].append(entry)
        self.write()

    def finish(self, status: str, **more: Any) -> None:
        self.document |= {"status": status, "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **more}
        self.write()

    def write(self) -> None:
        write_json(self.folder / "run.json", self.document)


def copy_model(source: Path, target: Path) -> None:
    """Copy a checkpoint folder into the run, whole or not at all."""
    partial = target.with_name(target.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    shutil.copytree(source, partial)
    partial.replace(target)
