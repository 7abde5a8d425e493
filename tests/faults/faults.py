"""What can go wrong, each as one function, with the exit codes that a run may then have."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.faults.processes import SERVER, STAGE, SUPERVISOR, named
from tests.faults.world import World

Runner = subprocess.Popen[str]


class Fault(NamedTuple):
    """``strike`` does it; ``codes`` are the runner's exit codes that are right afterwards.

    ``strike`` returns whether there was something to hit.  ``stages``: where it makes sense; empty for
    everywhere.
    """

    name: str
    strike: Callable[[World, Runner], bool]
    codes: tuple[int, ...]
    stages: tuple[str, ...] = ()


def signal_runner(number: int) -> Callable[[World, Runner], bool]:
    def strike(world: World, runner: Runner) -> bool:
        if runner.poll() is not None:
            return False
        runner.send_signal(number)
        return True

    return strike


def twice(world: World, runner: Runner) -> bool:
    """An impatient user."""
    if runner.poll() is not None:
        return False
    for _ in range(2):
        runner.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            runner.wait(0.5)
    return True


def signal_processes(word: str, number: int) -> Callable[[World, Runner], bool]:
    def strike(world: World, runner: Runner) -> bool:
        processes = named(world, word)
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, number)
        return bool(processes)

    return strike


KILLED = -signal.SIGKILL
DIED = (3, 0)  # 0: the process was at its end already
FAULTS = (
    Fault("runner killed", signal_runner(signal.SIGKILL), (KILLED,)),
    Fault("runner terminated", signal_runner(signal.SIGTERM), (130,)),
    Fault("^C", signal_runner(signal.SIGINT), (130,)),
    Fault("^C twice", twice, (130, -signal.SIGINT)),
    Fault("stage killed", signal_processes(STAGE, signal.SIGKILL), DIED),
    Fault("supervisor killed", signal_processes(SUPERVISOR, signal.SIGKILL), DIED),
    Fault("server killed", signal_processes(SERVER, signal.SIGKILL), DIED, ("benchmark",)),
    Fault("server frozen", signal_processes(SERVER, signal.SIGSTOP), DIED, ("benchmark",)),
)


def fitting(stage: str) -> list[Fault]:
    return [fault for fault in FAULTS if not fault.stages or stage in fault.stages]


def flip_a_byte(files: Iterable[Path], draw: random.Random) -> Path | None:
    """Change one byte of one of ``files``; which one."""
    candidates = sorted(path for path in files if path.is_file() and path.stat().st_size)
    if not candidates:
        return None
    path = draw.choice(candidates)
    place = draw.randrange(path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ (1 << draw.randrange(8))]))
    return path
