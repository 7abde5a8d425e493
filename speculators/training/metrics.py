"""A run's figures as they come: ``metrics.jsonl`` always, and whoever else follows the run.

A line holds no times, so that equal runs leave equal files, and a continued one goes on with the
file as its checkpoint has it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO


class Tracker(Protocol):
    """Somebody who follows a run: a dashboard, an experiment database."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Take the figures that belong to optimiser step ``step``; steps never go back."""

    def close(self) -> None:
        """Finish what was logged; called once, also when the run fails."""


class Metrics:
    """Where a run's rows go; nowhere without a file, as in ranks that do not lead.

    A tracker that fails is let go and said to be: hours of training do not hang on a dashboard.
    """

    def __init__(self, file: TextIO | None, trackers: Sequence[Tracker], say: Callable[[str], None]) -> None:
        self.file, self.trackers, self.say = file, list(trackers), say

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append one row, flushed for who follows the file."""
        row = {"kind": kind, "step": step, **values}
        if self.file is not None:
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()
        figures = dict(numbers(values, kind))
        self._tell(lambda tracker: tracker.log(step, figures))

    def close(self) -> None:
        """Take leave of the trackers."""
        self._tell(lambda tracker: tracker.close())

    def _tell(self, action: Callable[[Tracker], None]) -> None:
        for tracker in list(self.trackers):
            try:
                action(tracker)
            except Exception as error:  # whatever a tracker and its server can come to
                self.trackers.remove(tracker)
                self.say(f"warning: {type(tracker).__name__} follows no longer: {error}")


@contextmanager
def writing(
    path: Path | None, trackers: Sequence[Tracker] = (), say: Callable[[str], None] = print
) -> Iterator[Metrics]:
    """Metrics that go on at the end of ``path``, and to ``trackers``, which are closed at the end."""
    if path is None:
        yield Metrics(None, (), say)
        return
    with path.open("a", encoding="utf-8") as file:
        metrics = Metrics(file, trackers, say)
        try:
            yield metrics
        finally:
            metrics.close()


def numbers(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """The numbers in a row under their paths: lists by index, nothing where there is no number."""
    for name, value in values.items():
        path = f"{prefix}/{name}"
        if isinstance(value, Mapping):
            yield from numbers(value, path)
        elif isinstance(value, (list, tuple)):
            yield from numbers({str(index): item for index, item in enumerate(value)}, path)
        elif isinstance(value, (bool, int, float)):
            yield path, float(value)
