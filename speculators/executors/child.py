"""A supervised process of the runner: its output copied to a log, its end certain.

Why supervised: a runner may be killed with SIGKILL, and a server of many gigabytes that nobody owns any
more is what users then find the next morning.  The supervisor watches its standard input, whose other
end the runner holds: ``supervise.py`` for processes, ``container.py`` for containers.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from speculators.errors import StageError
from speculators.executors import supervise
from speculators.executors.base import SAVE_SECONDS, Endpoint, OnLine, Step, log_tail
from speculators.executors.known_causes import cause_in_log

POLL_SECONDS = 0.1
# The supervisor needs its grace period, then a moment to see that everything is gone.
STOP_SECONDS = supervise.GRACE_SECONDS + 4.0
READER_SECONDS = 5.0


def session_members(session: int) -> list[int]:
    """Living processes whose session is ``session``; empty where there is no /proc."""
    members = []
    for process in supervise.parents():
        try:
            if os.getsid(process) == session:
                members.append(process)
        except ProcessLookupError:
            continue
    return members


class Child:
    """The supervisor ``argv``, its output copied to a log, line by line."""

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        holds: Sequence[int] = (),
        on_line: OnLine | None = None,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        # A new session keeps ^C in the terminal from it: the runner decides what ends.
        self.process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A Python child would keep its lines to itself until a buffer is full.
            env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
            pass_fds=tuple(holds),
            start_new_session=True,
        )
        assert self.process.stdout is not None
        stream = self.process.stdout
        self.reader = threading.Thread(target=_copy_lines, args=(stream, log, on_line), daemon=True)
        self.reader.start()

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def finish(self, step: Step, beside: Sequence[Endpoint]) -> tuple[int, float]:
        """Its exit code and seconds, once nothing of it is left; an interrupt lets it save its work first.

        Raises:
            StageError: a server ``beside`` it died, or it took longer than ``step`` may.
        """
        try:
            return self.wait(step, beside), self.seconds()
        except KeyboardInterrupt:
            self.ask_to_end()
            raise
        finally:
            self.stop()

    def wait(self, step: Step, beside: Sequence[Endpoint]) -> int:
        """The exit code, unless a server ``beside`` it dies first, or its time is over.

        Raises:
            StageError: that happened.
        """
        while True:
            try:
                ended = self.process.wait(POLL_SECONDS)
                return ended if ended >= 0 else 128 - ended  # negative: the supervisor itself was killed
            except subprocess.TimeoutExpired:
                pass
            require_servers(step.name, beside)
            if step.seconds is not None and self.seconds() > step.seconds:
                raise StageError(f"{step.name}: no answer in {step.seconds:.0f} s", rule="overdue")

    def ask_to_end(self) -> None:
        """Let the process save its work; returns when it has ended, or after ``SAVE_SECONDS``."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(SAVE_SECONDS)

    def stop(self) -> None:
        """End the process and its descendants; returns when none is left."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        deadline = time.monotonic() + READER_SECONDS
        while (left := session_members(self.process.pid)) and time.monotonic() < deadline:
            for process in left:  # only when the supervisor itself was killed
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(POLL_SECONDS)
        self.reader.join(READER_SECONDS)


def _copy_lines(stream: IO[bytes], log: Path, on_line: OnLine | None) -> None:
    with stream, log.open("ab", buffering=0) as file:
        for line in stream:
            with suppress(OSError):  # a full disk must not end what is talking
                file.write(line)
            if on_line is not None:
                on_line(line.decode("utf-8", errors="replace").rstrip("\r\n"))


def require_servers(name: str, servers: Sequence[Endpoint]) -> None:
    """Stop when a server that the step ``name`` is a client of has died.

    Raises:
        StageError: with the last lines of its log.
    """
    for server in servers:
        if (code := server.exit_code()) is not None:
            raise _ended(name, server, code)


def _ended(name: str, server: Endpoint, code: int) -> StageError:
    cause = server.why()
    if not cause.text:
        cause = cause_in_log(server.log)
    known = f": {cause.text}" if cause.text else ""
    return StageError(
        f"server '{server.name}' ended (exit code {code}) while '{name}' was using it{known}; "
        f"last lines of its log:\n{log_tail(server.log)}",
        hint=cause.hint or server_hint(code),
        rule="server-failed",
    )


def server_hint(code: int) -> str:
    """The usual way out after a server ended with ``code``."""
    if code == 128 + signal.SIGKILL:
        return "it was killed: most often memory ran out; lower engine.args.kv_cache_memory_bytes"
    return "the log above names the cause; engine.args of the recipe are the server's arguments"
