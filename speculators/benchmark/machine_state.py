"""What a benchmark's client can see of the machine beside its own load, from Linux's own counters.

Nothing here needs privileges; what a machine does not tell is None.  GPUs are asked where the client sees
them (``gpu_state``): beside a server in a container it sees none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from speculators.benchmark import gpu_state

#: How long an idle server is watched for the work of others, and how long it may first come to rest: on a
#: CPU its OpenMP threads spin for 0.2 s after a step (libiomp5's KMP_BLOCKTIME), which is no work of others.
WATCH_SECONDS, REST_SECONDS = 1.0, 0.5
#: Between two looks at the clocks.
CLOCK_SECONDS = 5.0
STAT = Path("/proc/stat")
CPUINFO = Path("/proc/cpuinfo")
THROTTLES = Path("/sys/devices/system/cpu")
Result = TypeVar("Result")


class Ticks(NamedTuple):
    """Processor time of all cores since the machine started, in ticks."""

    busy: int
    stolen: int
    total: int


class Look(NamedTuple):
    """Mean MHz of the cores and of the GPUs at one moment, and whether a GPU is held back."""

    processor: float | None
    gpus: float | None
    held: bool | None


def read_ticks(text: str) -> Ticks:
    """The first line of ``/proc/stat``: user, nice, system, idle, iowait, irq, softirq, steal, ..."""
    user, nice, system, idle, waiting, irq, soft, steal = map(int, text.split("\n")[0].split()[1:9])
    total = user + nice + system + idle + waiting + irq + soft + steal
    return Ticks(total - idle - waiting - steal, steal, total)


def read_clock(text: str) -> float | None:
    """Mean MHz of the cores in ``/proc/cpuinfo``."""
    found = [float(line.partition(":")[2]) for line in text.split("\n") if line.startswith("cpu MHz")]
    return sum(found) / len(found) if found else None


def watched(work: Callable[[], Result]) -> tuple[Result, dict[str, Any]]:
    """The result of ``work``, and what was seen of the machine: before it, the server waiting, and in it."""
    others = _others()
    before, throttles = _ticks(), _throttles()
    looks: list[Look] = []
    done = threading.Event()
    watcher = threading.Thread(target=_watch_clocks, args=(looks, done), daemon=True)
    watcher.start()
    try:
        result = work()
    finally:
        done.set()
    watcher.join()
    after, later = _ticks(), _throttles()
    steal = None
    if before is not None and after is not None and after.total > before.total:
        steal = (after.stolen - before.stolen) / (after.total - before.total)
    held = [one.held for one in looks if one.held is not None]
    if throttles is not None and later is not None:
        held.append(later > throttles)
    return result, {
        "others_cores": others,
        "steal": steal,
        "throttled": any(held) if held else None,
        "clock_mhz": _mean([one.processor for one in looks]),
        "gpu_clock_mhz": _mean([one.gpus for one in looks]),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _watch_clocks(found: list[Look], done: threading.Event) -> None:
    """Clocks mean something under load only, so they are read while there is some."""
    while not done.wait(CLOCK_SECONDS):
        found.append(Look(_processor_clock(), *gpu_state.clocks()))


def _others() -> float | None:
    """Cores that are busy although the server has nothing to do."""
    time.sleep(REST_SECONDS)
    before = _ticks()
    time.sleep(WATCH_SECONDS)
    after = _ticks()
    if before is None or after is None or after.total == before.total:
        return None
    cores = sum(line.startswith("cpu") for line in STAT.read_text().split("\n")) - 1
    return round(cores * (after.busy - before.busy) / (after.total - before.total), 3)


def _ticks() -> Ticks | None:
    return read_ticks(STAT.read_text()) if STAT.is_file() else None


def _processor_clock() -> float | None:
    return read_clock(CPUINFO.read_text()) if CPUINFO.is_file() else None


def _throttles() -> int | None:
    """How often the processor has throttled since it started."""
    counts = [int(path.read_text()) for path in THROTTLES.glob("cpu*/thermal_throttle/*_throttle_count")]
    return sum(counts) if counts else None
