"""A run's figures as they come: ``metrics.jsonl`` always, and whoever else follows the run.

A line holds no times, so that equal runs leave equal files, and a continued one goes on with the
file as its checkpoint has it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
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
    """Where a run's rows go; nowhere without a file, as in ranks that do not lead."""

    def __init__(self, file: TextIO | None, trackers: Sequence[Tracker] = ()) -> None:
        self.file, self.trackers = file, trackers

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append one row, flushed for who follows the file."""
        row = {"kind": kind, "step": step, **values}
        if self.file is not None:
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()
        for tracker in self.trackers:
            tracker.log(step, dict(numbers(values, kind)))


@contextmanager
def writing(path: Path | None, trackers: Sequence[Tracker] = ()) -> Iterator[Metrics]:
    """Metrics that go on at the end of ``path``, and to ``trackers``, which are closed at the end."""
    if path is None:
        yield Metrics(None)
        return
    try:
        with path.open("a", encoding="utf-8") as file:
            yield Metrics(file, trackers)
    finally:
        for tracker in trackers:
            tracker.close()


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
