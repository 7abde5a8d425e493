"""Steps and services as processes of this machine, each under its own supervisor (``supervise.py``)."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from speculators.errors import MachineError
from speculators.executors import supervise
from speculators.executors.base import Endpoint, OnLine, Service, Step, StepResult, command_text, log_tail
from speculators.executors.child import Child
from speculators.executors.interior import Interior, look_inside

LOOPBACK = "127.0.0.1"
# -S: the supervisor needs no site packages.
SUPERVISED = (sys.executable, "-S", supervise.__file__, "--")


def free_port() -> int:
    """A port of the loopback address that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


class LocalExecutor:
    """An ``Executor`` whose machine is this one; what a step needs is simply there."""

    def __init__(self) -> None:
        self._interior: Interior | None = None

    def run(
        self, step: Step, *, on_line: OnLine | None = None, beside: Sequence[Endpoint] = ()
    ) -> StepResult:
        child = Child([*SUPERVISED, *step.argv], step.env, step.log, step.holds, on_line)
        code, seconds = child.finish(step, beside)
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
        child = Child([*SUPERVISED, *argv], service.env, service.log, service.holds)
        try:
            yield Endpoint(
                name=service.name,
                url=f"http://{LOOPBACK}:{port}",
                command=command_text(service.env, argv),
                log=service.log,
                exit_code=child.process.poll,
            )
        finally:
            child.stop()

    def interior(self, role: str) -> Interior:
        if self._interior is None:
            self._interior = look_inside()
        return self._interior

    def label(self, run: str) -> None:
        """Supervisors find their own without a mark."""

    def command(self, step: Step) -> str:
        return command_text(step.env, step.argv)
