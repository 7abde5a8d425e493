"""A private Docker engine for tests: its own data, socket and process, and nothing of the host's network.

One folder holds all of it.  An engine that the user names by DOCKER_HOST is used instead, as it is.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from speculators.executors.supervise import descendants
from tests.engine.packages import AbsentError, program

PREFIX = "speculators-engine-"
START_SECONDS = 60.0
STOP_SECONDS = 30.0
#: No bridge, no firewall rules, no forwarding: the tests' containers have no network or share one.
OPTIONS = (
    "--bridge=none",
    "--iptables=false",
    "--ip6tables=false",
    "--ip-forward=false",
    "--ip-masq=false",
    "--exec-opt=native.cgroupdriver=cgroupfs",
)
PR_SET_PDEATHSIG = 1
#: What holds a container, and lives on with it when the engine was killed.
HOLDERS = ("conmon", "containerd-shim")


class Daemon:
    """One private ``dockerd`` below ``folder``."""

    name = "dockerd"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base_url = f"unix://{folder / 'docker.sock'}"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def start(self, *, bound: bool) -> None:
        """Start it and wait until it answers; nothing to do if it does.

        ``bound``: it ends when the process that started it ends, however that comes about.

        Raises:
            AbsentError: there is none here, or it does not start.
        """
        if answers(self.base_url):
            return
        command = self.command()
        if os.geteuid() != 0:
            raise AbsentError(f"{self.name} is installed, but only root can start an engine of its own")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._pid_file.unlink(missing_ok=True)
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                command,
                env=self.environment(),
                cwd=self.folder,  # Podman leaves a file there for each container that memory ran out in
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent if bound else None,
            )
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.base_url):
            if process.poll() is not None or time.monotonic() > deadline:
                last = self.log.read_text(errors="replace")[-1500:]
                self.stop()
                raise AbsentError(f"{self.name} did not start:\n{last}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End its containers, then itself, and leave nothing of it on the disk."""
        if answers(self.base_url):
            # A container that runs would hold the engine up until its grace period is over.
            remove_containers(self.base_url)
        process = self._process()
        if process:
            _end(process)
        _end_outliving(self.folder)
        for mount in _mounts_below(self.folder):
            subprocess.run(["umount", "--lazy", mount], capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self) -> list[str]:
        """What starts it."""
        return [program("dockerd", "docker.io"), *self.options()]

    def environment(self) -> dict[str, str]:
        """The environment that it is started in."""
        return {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}

    def options(self) -> list[str]:
        # No storage driver is named: where overlay2 cannot work, the engine knows what can.
        places = {"data-root": "data", "exec-root": "exec", "pidfile": "docker.pid"}
        return [
            *(f"--{option}={self.folder / name}" for option, name in places.items()),
            f"--host={self.base_url}",
            *OPTIONS,
        ]

    @property
    def _pid_file(self) -> Path:
        return self.folder / "docker.pid"

    def _process(self) -> int | None:
        """Its process, if that is still the engine of this folder and no later process of that number."""
        try:
            process = int(self._pid_file.read_text())
            line = Path(f"/proc/{process}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return process if os.fsencode(self.folder) in line else None


@contextmanager
def running_engine() -> Iterator[str]:
    """The base URL of an engine for the time of the block: DOCKER_HOST's if that answers, else our own.

    Raises:
        AbsentError: there is neither.
    """
    require_sdk()
    named = os.environ.get("DOCKER_HOST", "")
    if named and answers(named):
        yield named
        return
    sweep()
    daemon = Daemon(own_folder())
    try:
        daemon.start(bound=True)
        yield daemon.base_url
    finally:
        daemon.stop()


def require_sdk() -> None:
    """Let the absence of the SDK read like any other.

    Raises:
        AbsentError: it is not installed.
    """
    try:
        import docker  # noqa: F401 - asked only whether it is there
    except ImportError as error:
        raise AbsentError("the Python package docker is not installed") from error


def own_folder() -> Path:
    """A new folder that names the process that has to remove it."""
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))


def sweep() -> None:
    """Remove what test sessions left that could not clean up after themselves."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            Daemon(folder).stop()


def client(base_url: str, timeout: float = 60) -> Any:
    """A client of the engine, for the fixture's own work."""
    import docker

    return docker.DockerClient(base_url=base_url, version="auto", timeout=int(timeout))


def answers(base_url: str) -> bool:
    """Whether an engine is behind ``base_url``."""
    import docker
    import requests

    with suppress(docker.errors.DockerException, requests.RequestException):
        engine = docker.DockerClient(base_url=base_url, timeout=10)
        try:
            return bool(engine.ping())
        finally:
            engine.close()
    return False


def remove_containers(base_url: str) -> None:
    """Every container of an engine of our own, whatever it does."""
    import docker

    engine = client(base_url)
    try:
        for container in engine.containers.list(all=True, ignore_removed=True):
            with suppress(docker.errors.APIError):
                container.remove(force=True, v=True)
    finally:
        engine.close()


def end_with_parent() -> None:
    """For a new process, before it becomes the daemon: let it end with the one that started it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _end(process: int) -> None:
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 5.0)):
        with suppress(ProcessLookupError):
            os.kill(process, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(ChildProcessError):
                os.waitpid(process, os.WNOHANG)
            if not Path(f"/proc/{process}").exists():
                return
            time.sleep(0.05)


def _end_outliving(folder: Path) -> None:
    """End the containers that a killed engine of ``folder`` left, and what holds them."""
    for process in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with suppress(OSError):  # it ended meanwhile
            place = Path(f"/proc/{process}")
            is_holder = (place / "comm").read_text().startswith(HOLDERS)
            if is_holder and os.fsencode(folder) in (place / "cmdline").read_bytes():
                # The holder first: it would tidy up what is about to be removed.
                for one in (process, *descendants(process)):
                    with suppress(ProcessLookupError):
                        os.kill(one, signal.SIGKILL)


def _mounts_below(folder: Path) -> list[str]:
    """Mount points in ``folder``, inner ones first; dockerd leaves that of its network namespace."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted((point for point in points if point.startswith(f"{folder}/")), reverse=True)
