"""Steps and services as processes of this machine, each under its own supervisor.

Why a supervisor each: a runner may be killed with SIGKILL, and a server of many gigabytes that
nobody owns any more is what users then find the next morning.  See ``supervise.py``.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from speculators.errors import MachineError, StageError
from speculators.executors import supervise
from speculators.executors.base import SAVE_SECONDS, Endpoint, OnLine, Service, Step, StepResult, log_tail

LOOPBACK = "127.0.0.1"
POLL_SECONDS = 0.1
# The supervisor needs its grace period, then a moment to see that everything is gone.
STOP_SECONDS = supervise.GRACE_SECONDS + 4.0
READER_SECONDS = 5.0


def free_port() -> int:
    """A port of the loopback address that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


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


class _Child:
    """One supervised process whose output is copied to a log, line by line."""

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        holds: Sequence[int],
        on_line: OnLine | None,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        # -S: the supervisor needs no site packages.  A new session keeps ^C in the terminal from it:
        # the runner decides what ends.
        self.process = subprocess.Popen(
            [sys.executable, "-S", supervise.__file__, "--", *argv],
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


class LocalExecutor:
    """An ``Executor`` whose machine is this one."""

    def run(self, step: Step, *, on_line: OnLine | None = None, beside: Endpoint | None = None) -> StepResult:
        child = _Child(step.argv, step.env, step.log, step.holds, on_line)
        try:
            code = _wait(child, step, beside)
            seconds = child.seconds()
        except KeyboardInterrupt:
            child.ask_to_end()
            raise
        finally:
            child.stop()
        if code == supervise.COMMAND_NOT_FOUND:
            raise MachineError(
                f"step '{step.name}': {step.argv[0]} cannot be started\n{log_tail(step.log, 2)}",
                hint="install it, or check the environment this command runs in",
            )
        return StepResult(code, seconds, step.log)

    @contextmanager
    def serve(self, service: Service) -> Iterator[Endpoint]:
        port = free_port()
        argv = service.argv(port)
        child = _Child(argv, service.env, service.log, service.holds, None)
        try:
            yield Endpoint(
                name=service.name,
                url=f"http://{LOOPBACK}:{port}",
                argv=argv,
                log=service.log,
                exit_code=child.process.poll,
            )
        finally:
            child.stop()


def _wait(child: _Child, step: Step, beside: Endpoint | None) -> int:
    """The exit code of ``child``, unless the server beside it dies first."""
    while True:
        try:
            ended = child.process.wait(POLL_SECONDS)
            return ended if ended >= 0 else 128 - ended  # negative: the supervisor itself was killed
        except subprocess.TimeoutExpired:
            pass
        if beside is not None and (code := beside.exit_code()) is not None:
            raise StageError(
                f"server '{beside.name}' ended (exit code {code}) while '{step.name}' was using it; "
                f"last lines of its log:\n{log_tail(beside.log)}",
                hint=server_hint(code),
                rule="server-failed",
            )


def server_hint(code: int) -> str:
    """The usual way out after a server ended with ``code``."""
    if code == 128 + signal.SIGKILL:
        return "it was killed: most often host memory ran out; lower engine.args.kv_cache_memory_bytes"
    return "the log above names the cause; engine.args of the recipe are the server's arguments"
