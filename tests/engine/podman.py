"""A private Podman service for tests, beside the Docker engine: its own images, containers, state and socket.

It has no network to change: containers are asked for without one or in another one's, and without a word
they get none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.engine.daemon import Daemon, own_folder, require_sdk, sweep
from tests.engine.packages import program

PACKAGES = ("podman", "runc", "catatonit", "golang-github-containers-common")
#: Where the engine itself may raise no limits, its containers cannot have Podman's usual ones.
CONTAINERS = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
log_driver = "k8s-file"
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
image_copy_tmp_dir = "{folder}/copies"
lock_type = "file"
runtime = "runc"
"""
STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{folder}/data"
runroot = "{folder}/run"
"""
#: A name without a registry is looked for nowhere; one on this machine is the tests' own.
REGISTRIES = """\
unqualified-search-registries = []
[[registry]]
location = "127.0.0.1"
insecure = true
"""
FILES = {"containers.conf": CONTAINERS, "storage.conf": STORAGE, "registries.conf": REGISTRIES}
VARIABLES = {
    "CONTAINERS_CONF": "containers.conf",
    "CONTAINERS_STORAGE_CONF": "storage.conf",
    "CONTAINERS_REGISTRIES_CONF": "registries.conf",
}
#: Its process id is in a file before it is the engine, which writes none.
NUMBERED = 'echo $$ >"$1"; shift; exec "$@"'


class PodmanDaemon(Daemon):
    """One private ``podman system service`` below ``folder``."""

    name = "podman"

    def command(self) -> list[str]:
        podman = program("podman", *PACKAGES)
        self.configure()
        return self.numbered(podman)

    def configure(self) -> None:
        """Write its files."""
        (self.folder / "copies").mkdir(parents=True, exist_ok=True)
        for name, text in FILES.items():
            (self.folder / name).write_text(text.format(folder=self.folder), encoding="utf-8")

    def numbered(self, podman: str) -> list[str]:
        return ["sh", "-c", NUMBERED, "sh", str(self._pid_file), podman, *self.options()]

    def options(self) -> list[str]:
        places = {"root": "data", "runroot": "run", "tmpdir": "state", "network-config-dir": "networks"}
        return [
            *(f"--{option}={self.folder / name}" for option, name in places.items()),
            *("system", "service", "--time=0", self.base_url),
        ]

    def environment(self) -> dict[str, str]:
        return super().environment() | {name: str(self.folder / file) for name, file in VARIABLES.items()}


@contextmanager
def running_podman() -> Iterator[str]:
    """The base URL of a Podman service of our own for the time of the block.

    Raises:
        AbsentError: there can be none here.
    """
    require_sdk()
    sweep()
    daemon = PodmanDaemon(own_folder())
    try:
        daemon.start(bound=True)
        yield daemon.base_url
    finally:
        daemon.stop()
