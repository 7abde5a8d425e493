"""Start a command only where the GPUs are that it was promised:  require_gpus COUNT|all -- COMMAND...

An engine can start a container without the GPUs that were asked for and say nothing; hours later somebody
wonders about the speed.  Looked at is what the driver itself leaves: its device nodes.  Under Windows' Linux
there is one node for all cards, which cannot be counted.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

WINDOWS_NODE = Path("/dev/dxg")
NODE = re.compile(r"nvidia\d+")
#: No other exit code of a stage or a shell.
EXIT_NO_GPU = 113


def gpu_nodes(devices: Path = Path("/dev")) -> list[str]:
    """Names of the GPUs' device nodes."""
    return sorted(entry.name for entry in devices.iterdir() if NODE.fullmatch(entry.name))


def missing(wanted: str, nodes: list[str]) -> str:
    """What is wrong with the GPUs that are here, or nothing."""
    if WINDOWS_NODE.exists():
        return ""
    needed = 1 if wanted == "all" else int(wanted)
    if len(nodes) >= needed:
        return ""
    return f"the container has {len(nodes)} GPUs ({', '.join(nodes) or 'no /dev/nvidia*'}), wanted: {wanted}"


def main(arguments: list[str]) -> int:
    wanted, _, *command = arguments
    if found := missing(wanted, gpu_nodes()):
        print(f"error: {found} [no-gpu]", file=sys.stderr)
        return EXIT_NO_GPU
    os.execvp(command[0], command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
