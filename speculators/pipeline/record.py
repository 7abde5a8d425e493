"""The run folder and ``run.json``: what was asked, what was done, on what, with which result.

The record is rewritten after every stage, so that a run that dies leaves the truth so far.  It
holds no host name, no user name and no value of a secret.
"""

from __future__ import annotations

import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from speculators.documents import known_json, read_json, value_digest, write_json, write_text
from speculators.errors import SpeculatorsError
from speculators.pipeline.machine.kind import machine
from speculators.pipeline.store import Lock
from speculators.pipeline.tool import tool
from speculators.recipe.recipe import Recipe

RUN_SCHEMA = "speculators/run/v1"
RECORD_NAME = "run.json"
LOCK_NAME = "run.lock"
LOCK_FILE = "lock.yaml"
LATEST = "latest"
#: Where an attempt at a run took place; the next one may take place elsewhere.
PLACE_FIELDS = ("tool", "machine", "executor", "engine", "images", "lock")
#: What is kept of an attempt that ended early.
ATTEMPT_FIELDS = ("status", "finished", "error", "arguments", *PLACE_FIELDS, "stages")


def without_folders(text: str) -> str:
    """``text`` with the last part only of each absolute path in it, for folders name people."""
    return re.sub(r"(?<![\w.~/-])(/[^\s:;,'\"()]+)", lambda found: Path(found[0]).name or "/", text)


def benchmark_seconds(runs_dir: Path, name: str) -> float | None:
    """How long the benchmark of the newest run that finished one without interruption took."""
    for folder in run_folders(runs_dir, name):
        document = known_json(folder / RECORD_NAME)
        for stage in [] if "attempts" in document else document.get("stages", []):
            if (stage.get("name"), stage.get("action")) == ("benchmark", "run"):
                return float(stage["seconds"])
    return None


def run_folders(runs_dir: Path, name: str) -> list[Path]:
    """The runs of the recipe called ``name``, the newest first."""
    folder = runs_dir.absolute() / name
    return sorted(
        (path.parent for path in folder.glob(f"*/{RECORD_NAME}") if not path.parent.is_symlink()),
        reverse=True,
    )


class RunRecord:
    """One run's folder, ``<runs>/<recipe>/<time>-<id>/``, and its growing record.

    ``continued``: the folder is that of a run of the same recipe that did not get to its end.
    """

    def __init__(
        self,
        runs_dir: Path,
        recipe: Recipe,
        *,
        only: str = "",
        anew: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        unfinished = None if anew else _unfinished(runs_dir, recipe, only, say)
        self.continued = unfinished is not None
        if unfinished is not None:
            self.folder, self.lock = unfinished
            self.document: dict[str, Any] = read_json(self.folder / RECORD_NAME)
            self._continue()
        else:
            self.folder = _new_folder(runs_dir, recipe)
            self.lock = Lock(self.folder / LOCK_NAME)
            self.lock.take(alone=True)
            self.lock.sign()
            self.document = self._fresh_document(recipe, only)
        self.write()
        if only in ("", "benchmark"):  # "latest" is where people look for a report
            self._point_latest_here()

    @property
    def id(self) -> str:
        return self.folder.name

    def _fresh_document(self, recipe: Recipe, only: str) -> dict[str, Any]:
        return {
            "schema": RUN_SCHEMA,
            "id": self.id,
            "status": "running",
            "recipe": {
                "name": recipe.name,
                "sha256": value_digest(recipe.data),
                "overrides": [without_folders(word) for word in recipe.overrides],
            },
            "only": only,
            "started": _now(),
            "stages": [],
            **_here(),
        }

    def _continue(self) -> None:
        """Book the attempt that ended early; its stages are walked again, most of them reused."""
        document = self.document
        ended = {name: document[name] for name in ATTEMPT_FIELDS if name in document}
        document["attempts"] = [*document.get("attempts", []), ended]
        for gone in ("finished", "error", "verdict", "gate", *PLACE_FIELDS):
            document.pop(gone, None)
        document |= {"status": "running", "stages": [], **_here()}

    def rest_on(self, premises: dict[str, Any], lock: str) -> None:
        """Book where stages run and which inputs they get."""
        self.document |= premises
        write_text(self.folder / LOCK_FILE, lock)
        self.write()

    def _point_latest_here(self) -> None:
        latest = self.folder.parent / LATEST
        partial = latest.with_name(f".latest.{self.id}")
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

    def fail(self, error: BaseException) -> None:
        """Book how the run ended, if the disk still takes it: the error itself matters more."""
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        message = error.message if isinstance(error, SpeculatorsError) else type(error).__name__
        cause = {} if status == "interrupted" else {"error": without_folders(message.splitlines()[0])}
        with suppress(OSError):
            self.finish(status, **cause)

    def write(self) -> None:
        write_json(self.folder / RECORD_NAME, self.document)


def _here() -> dict[str, Any]:
    """What is known of an attempt at its start: the command, the code, the machine."""
    return {"arguments": [without_folders(word) for word in sys.argv], "tool": tool(), "machine": machine()}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _new_folder(runs_dir: Path, recipe: Recipe) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = runs_dir.absolute() / recipe.name / f"{stamp}-{secrets.token_hex(2)}"
    folder.mkdir(parents=True)
    write_recipe(folder, recipe)
    return folder


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """The recipe as given, each file that it extends, and the one that they all come to."""
    for number, source in enumerate(recipe.sources):
        write_text(folder / (f"extends-{number}.yaml" if number else "recipe.yaml"), source.text)
    write_text(folder / "resolved.yaml", recipe.resolved_yaml())


def _unfinished(
    runs_dir: Path, recipe: Recipe, only: str, say: Callable[[str], None]
) -> tuple[Path, Lock] | None:
    """The newest run with these very settings, if it ended early; its lock is ours then."""
    wanted = (value_digest(recipe.data), only)
    for folder in run_folders(runs_dir, recipe.name):
        document = known_json(folder / RECORD_NAME)
        if (document.get("recipe", {}).get("sha256"), document.get("only")) != wanted:
            continue
        if document["status"] == "ok":
            return None
        lock = _taken(folder / LOCK_NAME, say)
        if lock is None:
            return None
        # Only under the lock is it certain that nobody finished it meanwhile.
        if known_json(folder / RECORD_NAME).get("status") not in (None, "ok"):
            return folder, lock
        lock.close()
        return None
    return None


def _taken(path: Path, say: Callable[[str], None]) -> Lock | None:
    """The lock of a run that is not at work any more."""
    lock = Lock(path)
    if not lock.try_take(alone=True):
        if lock.holder_lives():
            lock.close()
            return None
        say("waiting for what a killed run had started to end")  # a matter of seconds
        lock.take(alone=True)
    lock.sign()
    return lock


def copy_model(source: Path, target: Path) -> None:
    """Copy a checkpoint folder into the run, whole or not at all."""
    partial = target.with_name(target.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    shutil.copytree(source, partial)
    if target.exists():  # of an attempt that ended early
        shutil.rmtree(target)
    partial.replace(target)
