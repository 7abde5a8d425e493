"""What a person sees while a run works: one line a fact, on stderr.

Stdout is kept for the result.  A stage that is silent for a minute gets a heartbeat with its last
line, so that a log in CI shows the difference between slow and stuck.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from speculators.quantities import duration

HEARTBEAT_SECONDS = 60.0


class Console:
    """Writes ``HH:MM:SS stage message`` lines."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._lock = threading.Lock()
        self._last_line = ""
        self._last_shown = time.monotonic()

    def say(self, stage: str, message: str) -> None:
        with self._lock:
            self._last_shown = time.monotonic()
            print(f"{time.strftime('%H:%M:%S')} {stage:<14} {message}", file=self._stream, flush=True)

    def heard(self, line: str) -> None:
        """Remember a line of a stage's own output for the next heartbeat."""
        if line.strip():
            self._last_line = line.strip()

    @contextmanager
    def heartbeat(self, stage: str) -> Iterator[None]:
        """Within the block, speak at least once a minute."""
        done = threading.Event()
        started = time.monotonic()
        self._last_line = ""

        def beat() -> None:
            while not done.wait(1.0):
                if time.monotonic() - self._last_shown >= HEARTBEAT_SECONDS:
                    self.say(stage, f"{duration(time.monotonic() - started)} · {self._last_line[:120]}")

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
