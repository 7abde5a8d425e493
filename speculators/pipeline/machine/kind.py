"""What kind of machine this is, without saying which one."""

from __future__ import annotations

import os
import platform
from collections import Counter
from pathlib import Path
from typing import Any

from speculators.pipeline.machine import gpu


def machine() -> dict[str, Any]:
    """Processor, cores, memory, system; and GPUs with their driver where there are any."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **_gpus(gpu.look()),
    }


def _gpus(driver: gpu.Driver) -> dict[str, str]:
    """As one line each, for two machines are compared by them."""
    if not driver.gpus:
        return {}
    counted = Counter(one.name for one in driver.gpus)
    named = ", ".join(f"{count} x {name}" for name, count in sorted(counted.items()))
    return {"gpus": named, "driver": driver.gpus[0].driver}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
