"""Whether servers can listen on the loopback address, the only one they ever use."""

from __future__ import annotations

from speculators.executors.local import LOOPBACK, free_port
from speculators.pipeline.machine.findings import Finding, missing, ok


def port_findings() -> list[Finding]:
    try:
        free_port()
    except OSError as error:
        return [cannot_bind(error)]
    return [ok("ports", f"a server can listen on {LOOPBACK}")]


def cannot_bind(error: OSError) -> Finding:
    mend = "bring the loopback interface up (ip link set lo up), or allow it in the sandbox or container"
    return missing("ports", f"no port of {LOOPBACK} can be bound: {error.strerror or error}", mend)
