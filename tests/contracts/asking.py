"""Asking an engine, and keeping its answers: the rim around ``inside`` and the snapshots."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.contracts.answers import Answer
from tests.contracts.engines import ROOT, Engine

SECONDS = 900


class AskingError(Exception):
    """An engine's process gave no answers."""


def ask(engine: Engine) -> dict[str, Answer]:
    """The engine's answer to every question.

    Raises:
        AskingError: its process failed or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="contracts-") as scratch:
        folder = Path(scratch).resolve()
        command = [sys.executable, "-m", "tests.contracts.inside", str(folder)]
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=engine.environment(folder),
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise AskingError(f"{engine.name}: no answer within {SECONDS} s") from error
    if done.returncode != 0:
        raise AskingError(f"{engine.name}: {done.stderr.strip()[-2000:]}")
    answers = json.loads(done.stdout.strip().splitlines()[-1])
    return {name: Answer(facts, tuple(missing)) for name, (facts, missing) in answers.items()}


def document(engine: Engine, answers: dict[str, Answer]) -> dict[str, Any]:
    """What a snapshot holds."""
    return {
        "engine": engine.name,
        "origin": engine.origin,
        "answers": {name: {"facts": a.facts, "missing": list(a.missing)} for name, a in answers.items()},
    }


def write_snapshot(engine: Engine, answers: dict[str, Answer]) -> Path:
    """The answers as the file that later ones are compared with: sorted, one value a line."""
    text = json.dumps(document(engine, answers), indent=1, sort_keys=True, ensure_ascii=False)
    engine.snapshot.parent.mkdir(exist_ok=True)
    engine.snapshot.write_text(text + "\n", encoding="utf-8")
    return engine.snapshot


def read_snapshot(path: Path) -> dict[str, Answer]:
    """The answers in a snapshot."""
    answers = json.loads(path.read_text(encoding="utf-8"))["answers"]
    return {name: Answer(row["facts"], tuple(row["missing"])) for name, row in answers.items()}
