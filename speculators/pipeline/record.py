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
from speculators.documents import read_json, value_digest, write_json, write_text
from speculators.pipeline.store import Lock
from speculators.recipe.recipe import Recipe

RUN_SCHEMA = "speculators/run/v1"
RECORD_NAME = "run.json"
LOCK_NAME = "run.lock"
LATEST = "latest"


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


def last_run(runs_dir: Path, name: str) -> Path | None:
    """The folder of the newest run of the recipe called ``name``."""
    latest = runs_dir.absolute() / name / LATEST
    return latest.resolve() if (latest / RECORD_NAME).is_file() else None


def benchmark_seconds(runs_dir: Path, name: str) -> float | None:
    """How long the benchmark of the newest run that finished one took."""
    for record in sorted((runs_dir / name).glob(f"*/{RECORD_NAME}"), reverse=True):
        for stage in read_json(record)["stages"]:
            if stage["name"] == "benchmark" and stage["action"] == "run":
                return float(stage["seconds"])
    return None


class RunRecord:
    """One run's folder, ``<runs>/<recipe>/<time>-<id>/``, and its growing record.

    ``continued``: the folder is that of a run of the same recipe that did not get to its end.
    """

    def __init__(self, runs_dir: Path, recipe: Recipe, *, anew: bool = False) -> None:
        unfinished = None if anew else _unfinished(runs_dir, recipe)
        self.continued = unfinished is not None
        if unfinished is not None:
            self.folder, self.lock = unfinished
            self.document: dict[str, Any] = read_json(self.folder / RECORD_NAME)
            self._continue()
        else:
            self.folder = _new_folder(runs_dir, recipe)
            self.lock = Lock(self.folder / LOCK_NAME)
            self.lock.take(alone=True)
            self.document = self._fresh_document(recipe)
        self.lock.sign()
        self.write()
        self._point_latest_here()

    @property
    def id(self) -> str:
        return self.folder.name

    def _fresh_document(self, recipe: Recipe) -> dict[str, Any]:
        return {
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
            "started": _now(),
            "machine": machine(),
            "stages": [],
        }

    def _continue(self) -> None:
        """Book the attempt that ended early; its stages are walked again, most of them reused."""
        document = self.document
        ended = {"status": document["status"], "stages": document["stages"]}
        document["attempts"] = [*document.get("attempts", []), ended]
        for gone in ("finished", "error", "verdict"):
            document.pop(gone, None)
        document |= {"status": "running", "stages": [], "tool": {"version": __version__}}

    def _point_latest_here(self) -> None:
        latest = self.folder.parent / LATEST
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
        self.document |= {"status": status, "finished": _now(), **more}
        self.write()

    def write(self) -> None:
        write_json(self.folder / RECORD_NAME, self.document)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _new_folder(runs_dir: Path, recipe: Recipe) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = runs_dir.absolute() / recipe.name / f"{stamp}-{secrets.token_hex(2)}"
    folder.mkdir(parents=True)
    write_text(folder / "recipe.yaml", recipe.source_text)
    write_text(folder / "resolved.yaml", recipe.resolved_yaml())
    return folder


def _unfinished(runs_dir: Path, recipe: Recipe) -> tuple[Path, Lock] | None:
    """The newest run if it ended early with these very settings, and nobody is at it."""
    folder = last_run(runs_dir, recipe.name)
    if folder is None:
        return None
    document = read_json(folder / RECORD_NAME)
    if document["status"] == "ok" or document["recipe"]["sha256"] != value_digest(recipe.data):
        return None
    lock = Lock(folder / LOCK_NAME)
    if not lock.try_alone():
        if lock.holder_lives():
            lock.close()
            return None
        lock.take(alone=True)  # its runner was killed; what it started ends within seconds
    return folder, lock


def copy_model(source: Path, target: Path) -> None:
    """Copy a checkpoint folder into the run, whole or not at all."""
    partial = target.with_name(target.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    shutil.copytree(source, partial)
    partial.replace(target)
