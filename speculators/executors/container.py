"""Run one container and end it when the runner goes away, however the runner goes away.

    python -m speculators.executors.container REQUEST.json

The container's counterpart of ``supervise.py``, with the same manners: the runner holds the other end of
standard input, and end of file means that it closed it or died; SIGTERM is a polite request that is passed
on, once.  What the container says comes out on standard output; the exit code is its own.  Beside the
request stays ``STATE``: how far it got, and the cause where the engine knows one.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from speculators.documents import read_json, write_json
from speculators.errors import MachineError, SpeculatorsError
from speculators.executors.base import SAVE_SECONDS
from speculators.executors.engine import CLIENT_LABEL, connect, refusal, sentence
from speculators.executors.request import require_there
from speculators.executors.supervise import process_mark
from speculators.quantities import duration, size

STATE = "container-state.json"
REQUEST = "container.json"
#: Between SIGTERM and SIGKILL when the runner is gone: all must be over within ten seconds.
GRACE_SECONDS = 3
READER_SECONDS = 5.0
NOT_STARTED = 125
KILLED = 128 + signal.SIGKILL


class Container:
    """One container from its creation to its removal."""

    def __init__(self, request: dict[str, Any], state: Path) -> None:
        self.request = request
        self.state = state
        self.engine = connect()
        self.api = self.engine.client.api
        self.id = ""
        self.started = False
        self.stopped = False  # by us
        self.code: int | None = None
        self.ended = False  # or lost sight of
        self.cause: dict[str, str] = {}

    def create(self) -> None:
        body = dict(self.request["body"])
        # Only here do the values of secrets appear: not in the request, which is kept.
        secrets = [f"{name}={os.environ[name]}" for name in self.request["secrets"] if name in os.environ]
        body["Env"] = [*body["Env"], *secrets]
        body["Labels"] = {**body["Labels"], CLIENT_LABEL: process_mark(os.getpid())}
        mounts = body["HostConfig"]["Mounts"]
        # Run again by hand: inputs may be gone meanwhile, and a stage's folder may have got its final name.
        require_there(Path(mount["Source"]) for mount in mounts if mount["ReadOnly"])
        for mount in mounts:
            if not mount["ReadOnly"]:
                Path(mount["Source"]).mkdir(parents=True, exist_ok=True)
        self.id = self.api.create_container_from_config(body, self.request["name"])["Id"]
        self.api.start(self.id)
        self.started = True
        self.say("running")

    def say(self, state: str) -> None:
        write_json(self.state, {"state": state, "id": self.id, "exit_code": self.code, **self.cause})

    def relay(self) -> None:
        """Copy what the container says to standard output, until it ends."""
        with suppress(Exception):  # the log is worth less than the result
            for block in self.api.logs(self.id, stream=True, follow=True):
                sys.stdout.buffer.write(block)
                sys.stdout.buffer.flush()

    def watch(self, wake: int) -> None:
        """Wait for the end, then wake the main thread."""
        with suppress(Exception):  # an engine that dies meanwhile: the main thread finds out
            self.code = int(self.api.wait(self.id)["StatusCode"])
        self.ended = True
        os.write(wake, b"\0")

    def stop(self, grace: float = GRACE_SECONDS) -> None:
        self.stopped = True
        with suppress(Exception):  # it may have ended by itself
            self.api.stop(self.id, timeout=int(grace))

    def judge(self) -> None:
        """Why it ended, as far as the engine knows."""
        found = self.api.inspect_container(self.id)["State"]
        if self.code is None and found.get("Running"):
            self.stop()
            raise MachineError(
                "the container engine stopped answering while the container ran",
                hint="see the engine's own log; finished work is kept",
                rule="engine-lost",
            )
        if self.code is None:
            self.code = int(found["ExitCode"])
        memory = self.request["body"]["HostConfig"].get("Memory", 0)
        # Where the engine does not tell, nothing else is likely to have killed it.
        likely = self.engine.is_silent and memory and self.code == KILLED and not self.stopped
        if found.get("OOMKilled") or likely:
            self.cause = {
                "cause": f"it {'probably ' if likely else ''}took more memory than container.memory allows "
                f"({size(memory)})",
                "hint": "raise container.memory, or lower engine.args.kv_cache_memory_bytes, "
                "engine.args.max_num_seqs or training.sequence_length",
            }

    def remove(self) -> None:
        with suppress(Exception):  # nothing more can be done about it here; doctor --clean can
            self.api.remove_container(self.id, force=True)


def main(path: Path) -> int:
    request = read_json(path)
    container: Container | None = None
    state = path.with_name(request["state"])
    wake, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        container = Container(request, state)
        container.create()
        return attend(container, request["time_limit"], wake, wake_write)
    except Exception as error:
        known = error if isinstance(error, SpeculatorsError) else refusal(sentence(error))
        print(known.told(), file=sys.stderr)
        write_json(
            state,
            {
                "state": "lost" if container is not None and container.started else "refused",
                "exit_code": NOT_STARTED,
                "cause": known.message,
                "hint": known.hint,
                "rule": known.rule,
                "error": known.exit_code,
            },
        )
        return NOT_STARTED
    finally:
        if container is not None and container.id:
            container.remove()


def attend(container: Container, time_limit: float | None, wake: int, wake_write: int) -> int:
    """Stay with a running container to its end; its exit code."""
    reader = threading.Thread(target=container.relay, daemon=True)
    watcher = threading.Thread(target=container.watch, args=(wake_write,), daemon=True)
    for thread in (reader, watcher):
        thread.start()
    started = time.monotonic()
    deadline = started + time_limit if time_limit else None
    # A runner holds a pipe; run by hand, the end of whatever input there is means nothing.
    watched = [0, wake] if stat.S_ISFIFO(os.fstat(0).st_mode) else [wake]
    while not container.ended:
        left = max(0.0, deadline - time.monotonic()) if deadline else None
        ready, _, _ = select.select(watched, [], [], left)
        if wake in ready and {signal.SIGTERM, signal.SIGINT} & set(os.read(wake, 4096)):
            with suppress(Exception):  # ended by itself
                container.api.kill(container.id, signal="SIGTERM")
        overdue = deadline is not None and time.monotonic() >= deadline
        if overdue or (0 in ready and not os.read(0, 4096)):
            # Who runs out of time saves its work as who is interrupted does.
            container.stop(SAVE_SECONDS if overdue else GRACE_SECONDS)
            watcher.join(READER_SECONDS)
            break
    reader.join(READER_SECONDS)
    container.judge()
    if deadline is not None and time.monotonic() >= deadline:
        container.cause = {
            "cause": f"it was ended after container.time_limit ({duration(time_limit or 0)})",
            "hint": "raise container.time_limit",
        }
    container.say("ended")
    assert container.code is not None
    return container.code


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m speculators.executors.container REQUEST.json")
    sys.exit(main(Path(sys.argv[1])))
