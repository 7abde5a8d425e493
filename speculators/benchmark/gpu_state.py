"""What the driver tells of the GPUs, asked as ``nvidia-smi`` is: their clocks, and who computes on them.

What it does not tell is None, as where there is no ``nvidia-smi``.
"""

from __future__ import annotations

import subprocess
import time

TIMEOUT_SECONDS = 20
#: How long a server that was ended may still be listed.
REST_SECONDS = 2.0
#: Bits of ``clocks_event_reasons.active`` that are no choice of the user's (NVML: nvmlClocksEventReason*):
#: software power cap, hardware slowdown, software and hardware thermal slowdown, power brake.
THROTTLE_BITS = 0x4 | 0x8 | 0x20 | 0x40 | 0x80
FORMAT = "--format=csv,noheader,nounits"
CLOCKS = ("--query-gpu=clocks.sm,clocks_event_reasons.active", FORMAT)
PROCESSES = ("--query-compute-apps=pid", FORMAT)


def read_clocks(text: str) -> tuple[float | None, bool]:
    """Mean clock in MHz and whether any GPU is held back, from an answer to ``CLOCKS``."""
    rows = [line.split(",") for line in text.strip().split("\n") if "," in line]
    clocks = [float(clock) for clock, _ in rows if clock.strip().isdigit()]
    held = any(int(reasons, 16) & THROTTLE_BITS for _, reasons in rows if reasons.strip().startswith("0x"))
    return (sum(clocks) / len(clocks) if clocks else None), held


def clocks() -> tuple[float | None, bool | None]:
    """As of ``read_clocks``, of now."""
    answer = _asked(CLOCKS)
    return (None, None) if answer is None else read_clocks(answer)


def processes() -> frozenset[int] | None:
    """Ids of the processes that compute on the GPUs now."""
    answer = _asked(PROCESSES)
    if answer is None:
        return None
    return frozenset(int(line) for line in answer.split("\n") if line.strip().isdigit())


def lasting_processes() -> frozenset[int] | None:
    """As ``processes``, without those that are just ending."""
    found = processes()
    if not found:
        return found
    time.sleep(REST_SECONDS)
    return found & (processes() or frozenset())


def others(before: frozenset[int] | None, serving: frozenset[int] | None) -> int | None:
    """How many processes of others computed on the GPUs ``before`` a server of ours was started.

    ``serving``: those while it serves.  A container may hide them all, the server's own as well: then nothing
    is known.
    """
    return len(before) if before is not None and (before or serving) else None


def _asked(query: tuple[str, ...]) -> str | None:
    command = ("nvidia-smi", *query)
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout
