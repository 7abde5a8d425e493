"""Where repeats of published runs make everything: a home for each, apart from the user's own.

``<runs>/repeats/<run>.homes/<n>``.  An interrupted repeat goes on in its home, the next after a finished one
gets another.
"""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

from speculators.documents import write_text
from speculators.pipeline.store import Store
from speculators.stages.table import VERIFIER

#: Below the folder for runs.
REPEATS = "repeats"
ENDING = ".homes"
FINISHED = "finished"  # a file in a home that no repeat may use again


def unfinished_home(repeats: Path, run: str) -> Path:
    """The home of an interrupted repeat of ``run``, which goes on, or else one where nothing was made yet."""
    folder = repeats.absolute() / f"{run}{ENDING}"
    numbered = (folder / str(number) for number in itertools.count(1))
    return next(home for home in numbered if not (home / FINISHED).exists())


def leave(home: Path) -> None:
    """Close the home of a finished repeat: the next one makes everything anew.

    What was made is removed but for the verifier, which the finished run's model names as its own.
    """
    write_text(home / FINISHED, "")
    for stage in Store(home).root.glob("*"):
        if stage.name != VERIFIER.name:
            shutil.rmtree(stage, ignore_errors=True)


def homes_below(runs_dir: Path) -> list[Path]:
    """All homes of repeats whose run folders go to ``runs_dir``."""
    return sorted((runs_dir / REPEATS).absolute().glob(f"*{ENDING}/*/"))


def repeated_run(home: Path) -> str:
    """The id of the published run that is repeated in ``home``; empty for any other home."""
    return home.parent.name.removesuffix(ENDING) if home.parent.name.endswith(ENDING) else ""
