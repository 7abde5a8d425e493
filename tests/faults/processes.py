"""Finding the processes of a world by the mark in their environment, and which is which."""

from __future__ import annotations

import time
from pathlib import Path

from speculators.executors.supervise import parents
from tests.faults.world import MARK, World

SUPERVISOR = "executors/supervise.py"
STAGE = "speculators.stages"
SERVER = "api_server"


def marked(world: World) -> dict[int, str]:
    """Command lines of the living processes that belong to ``world``."""
    mark = f"{MARK}={world.folder}".encode()
    found = {}
    for process in parents():
        try:
            if mark not in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
                continue
            line = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        found[process] = line
    return found


def named(world: World, word: str) -> list[int]:
    """Processes whose command line has ``word``, supervisors only when they are asked for."""
    return [
        process
        for process, line in marked(world).items()
        if word in line and (word == SUPERVISOR or SUPERVISOR not in line)
    ]


def seconds_until_quiet(world: World, limit: float) -> float | None:
    """How long it takes until no process of ``world`` is left; None when some outlive ``limit``."""
    started = time.monotonic()
    while time.monotonic() - started < limit:
        if not marked(world):
            return time.monotonic() - started
        time.sleep(0.1)
    return None
