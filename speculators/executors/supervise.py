"""Run one command and end all of it when the runner goes away, however the runner goes away.

    python -S supervise.py -- COMMAND ARGUMENT...

The runner holds the other end of this program's standard input and never writes to it.  End of file
means that the runner closed it or died, even by SIGKILL, which no ``finally`` clause survives.  Then,
and also when the command's own process ends, every descendant gets SIGTERM, and SIGKILL after
``GRACE_SECONDS``.  The exit code is the command's, or 128 + n when signal n ended it.

SIGTERM is a polite request: it is passed on, once, and the command has as much time to save its work
as the runner gives it.

Descendants are found by process group and, on Linux, by parentage: as a *subreaper* this program
adopts orphans, so a grandchild that left the group is found as well.  Only the standard library is
used, and few modules of it: the program starts in milliseconds and also runs in foreign images.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress

GRACE_SECONDS = 5.0
POLL_SECONDS = 0.05
COMMAND_NOT_FOUND = 127
PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Adopt orphaned descendants (Linux); elsewhere the process group has to do."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def spawn(argv: list[str]) -> int:
    """Start the command in a process group of its own, with nothing on its standard input."""
    return os.posix_spawnp(
        argv[0],
        argv,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
        setpgroup=0,
        # Python ignores SIGPIPE and an ignored signal stays ignored in a new program.
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM],
    )


def parents() -> dict[int, int]:
    """Parent of each living process (zombies left out), by process id; empty without /proc."""
    found: dict[int, int] = {}
    if not os.path.isdir("/proc/self"):
        return found
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                # The name in parentheses may hold spaces and parentheses itself.
                state, parent = file.read().rpartition(")")[2].split()[:2]
        except OSError:  # it ended meanwhile
            continue
        if state != "Z":
            found[int(name)] = int(parent)
    return found


def started(process: int) -> int:
    """When a process was started, in clock ticks since boot (field 22 of ``stat``); 0 when it is gone.

    It tells a process from a later one with the same id.
    """
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def process_mark(process: int) -> str:
    """What tells a process from every other: boot, process namespace, id and start; empty without /proc."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {process} {started(process)}"
    except OSError:
        return ""


def descendants(root: int) -> list[int]:
    """Process ids of all living descendants of ``root``."""
    by_process = parents()
    family = {root}
    while more := {process for process, parent in by_process.items() if parent in family} - family:
        family |= more
    return sorted(family - {root})


def signal_all(group: int, number: int) -> None:
    """Send one signal to the command's group and to every descendant outside it."""
    with suppress(ProcessLookupError):
        os.killpg(group, number)
    for process in descendants(os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(process, number)


def reap() -> dict[int, int]:
    """Collect ended children: their exit codes by process id."""
    ended: dict[int, int] = {}
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if process == 0:
            return ended
        code = os.waitstatus_to_exitcode(status)
        ended[process] = code if code >= 0 else 128 - code


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def end_all(group: int, codes: dict[int, int]) -> None:
    """SIGTERM, wait up to ``GRACE_SECONDS``, SIGKILL; returns when nothing is left."""
    codes.update(reap())
    if not group_lives(group) and not descendants(os.getpid()):
        return
    signal_all(group, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while True:
        codes.update(reap())
        if not group_lives(group) and not descendants(os.getpid()):
            return
        if time.monotonic() > deadline:
            signal_all(group, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def supervise(argv: list[str]) -> int:
    """Run ``argv`` until it ends or standard input does; the exit code to leave with."""
    wake, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    become_subreaper()
    try:
        command = spawn(argv)
    except OSError as error:
        print(f"supervise: cannot start {argv[0]}: {error.strerror}", file=sys.stderr, flush=True)
        return COMMAND_NOT_FOUND
    codes: dict[int, int] = {}
    runner_lives = True
    while command not in codes and runner_lives:
        ready, _, _ = select.select([0, wake], [], [])
        if wake in ready:
            if {signal.SIGTERM, signal.SIGINT} & set(os.read(wake, 4096)):
                signal_all(command, signal.SIGTERM)
            codes.update(reap())
        if 0 in ready:
            runner_lives = bool(os.read(0, 4096))
    end_all(command, codes)
    return codes.get(command, 128 + signal.SIGKILL)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] == ["--"]:
        arguments = arguments[1:]
    if not arguments:
        sys.exit("usage: supervise.py -- COMMAND ARGUMENT...")
    sys.exit(supervise(arguments))
