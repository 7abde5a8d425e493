"""What a person sees while a run works, on stderr; stdout is kept for the result.

On a terminal one live line shows the stage, its time and its last words.  Elsewhere there are plain
lines: start, end, and a heartbeat when a stage was silent for a minute, so that a log in CI shows the
difference between slow and stuck.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, TextIO

from speculators.quantities import duration

if TYPE_CHECKING:
    from rich.live import Live

AUTO, PLAIN, QUIET = "auto", "plain", "quiet"
HEARTBEAT_SECONDS = 60.0
REFRESH_SECONDS = 0.5
WORDS = 120  # of a stage's last line


class Voice(NamedTuple):
    """How much is said.  ``verbose`` passes every line of every stage through."""

    progress: str = AUTO
    verbose: bool = False


class Console:
    """Writes ``HH:MM:SS stage message`` lines and keeps one live line where there is a terminal."""

    def __init__(self, stream: TextIO | None = None, voice: Voice | None = None) -> None:
        self._stream = stream or sys.stderr
        self._voice = voice or Voice()
        self._lock = threading.Lock()
        self._live: Live | None = None
        self._last_line = ""
        self._last_shown = time.monotonic()

    def say(self, stage: str, message: str) -> None:
        """One line of the story."""
        self._last_line = message  # what was heard before is over
        self._tell(stage, message)

    def show(self, text: str) -> None:
        """Lines that stand for themselves, such as a table."""
        self._print(text)

    def heard(self, line: str, short: str | None = None) -> None:
        """A line of a stage's own output; ``short`` is what the live line shows of it, if anything."""
        if not line.strip():
            return
        self._last_line = (line if short is None else short).strip() or self._last_line
        if self._voice.verbose:
            self._print(f"{'':<23} | {line.rstrip()}")

    @contextmanager
    def working(self, stage: str) -> Iterator[None]:
        """Within the block, show that ``stage`` is at work."""
        self._last_line = ""
        done = threading.Event()
        with self._live_line():
            thread = threading.Thread(target=self._watch, args=(stage, done), daemon=True)
            thread.start()
            try:
                yield
            finally:
                done.set()
                thread.join()

    def _watch(self, stage: str, done: threading.Event) -> None:
        started = time.monotonic()
        while not done.wait(REFRESH_SECONDS):
            line = f"{duration(time.monotonic() - started)} · {self._last_line[:WORDS]}"
            if self._live is not None:
                self._live.update(f"{stage:<14} {line}")
            elif time.monotonic() - self._last_shown >= HEARTBEAT_SECONDS:
                self._tell(stage, line)

    @contextmanager
    def _live_line(self) -> Iterator[None]:
        if self._voice.progress != AUTO or not self._stream.isatty():
            yield
            return
        from rich.console import Console as Terminal
        from rich.live import Live

        terminal = Terminal(file=self._stream, highlight=False, markup=False)
        with Live(console=terminal, transient=True, refresh_per_second=2) as self._live:
            try:
                yield
            finally:
                self._live = None

    def _tell(self, stage: str, message: str) -> None:
        self._print(f"{time.strftime('%H:%M:%S')} {stage:<14} {message}")

    def _print(self, text: str) -> None:
        if self._voice.progress == QUIET:
            return
        with self._lock:
            self._last_shown = time.monotonic()
            if self._live is not None:
                self._live.console.print(text, soft_wrap=True)
            else:
                print(text, file=self._stream, flush=True)
