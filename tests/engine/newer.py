"""Newer engines than this host's distribution has, Docker and Podman, out of a root of the next one.

They hand devices over by CDI specifications, which the older ones cannot, and Docker can keep its images
the OCI way.  Each runs in a mount namespace of its own, where that root lies below the host's other folders,
so paths of recipes, outputs and sockets are the same as outside.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.engine import podman
from tests.engine.daemon import Daemon, own_folder
from tests.engine.packages import AbsentError, program
from tests.engine.podman import PodmanDaemon

SUITE = "trixie"
PACKAGES = ",".join(("docker.io", "mount", *podman.PACKAGES))
#: A root made before; what else would be made anew, which takes a minute or two.
KEPT = "SPECULATORS_ENGINE_ROOT"
ROOT_SECONDS = 600
#: What the engine takes from its own root; all else in / is the host's.
OWN = ("bin", "boot", "etc", "lib", "lib32", "lib64", "libx32", "run", "sbin", "usr", "var", "lost+found")
#: Arguments: the new root, then the folders to take from the host, "--", and the command.
ENTER = """
set -e
root=$1; shift
mount --bind "$root" "$root"
while [ "$1" != -- ]; do
  mkdir -p "$root/$1"
  mount --rbind "/$1" "$root/$1"
  shift
done
shift
cd "$root"
mkdir -p .host
pivot_root . .host
umount --lazy /.host
cd /
exec "$@"
"""
#: Podman looks for devices in one place only, whatever its configuration says.
GIVE_DEVICES = 'mkdir -p /etc/cdi && mount --bind "$1" /etc/cdi && shift && exec "$@"'
#: A graphics card that is none: a container gets a variable and a device node that is /dev/null.
FAKE_GPU = {
    "cdiVersion": "0.5.0",
    "kind": "nvidia.com/gpu",
    "devices": [
        {
            "name": name,
            "containerEdits": {
                "env": [f"FAKE_GPU={name}"],
                "deviceNodes": [{"path": f"/dev/nvidia{number}", "type": "c", "major": 1, "minor": 3}],
            },
        }
        for number, name in enumerate(("0", "all"))
    ],
}


class NewerDaemon(Daemon):
    """A ``dockerd`` of ``root`` with the devices of ``specifications`` (CDI documents by name).

    ``oci``: keep images in containerd's store, where an image's Id is its manifest's digest.
    """

    def __init__(
        self, folder: Path, root: Path, specifications: dict[str, Any] | None = None, *, oci: bool = False
    ) -> None:
        super().__init__(folder)
        self.root = root
        self.specifications = specifications or {}
        self.oci = oci

    def command(self) -> list[str]:
        devices = self.folder / "cdi"
        devices.mkdir(parents=True, exist_ok=True)
        for name, specification in self.specifications.items():
            (devices / f"{name}.json").write_text(json.dumps(specification), encoding="utf-8")
        features = {"cdi": True, "containerd-snapshotter": self.oci}
        configuration = self.folder / "daemon.json"
        configuration.write_text(json.dumps({"features": features, "cdi-spec-dirs": [str(devices)]}))
        options = [f"--config-file={configuration}", *self.options()]
        return inside(self.root, ["/usr/sbin/dockerd", *options])


class NewerPodman(PodmanDaemon):
    """A Podman of ``root`` with the fake graphics cards."""

    def __init__(self, folder: Path, root: Path) -> None:
        super().__init__(folder)
        self.root = root

    def command(self) -> list[str]:
        if not (self.root / "usr" / "bin" / "podman").exists():
            raise AbsentError(f"{self.root} has no Podman; it was made by an older version of these tests")
        devices = self.folder / "cdi"
        devices.mkdir(parents=True, exist_ok=True)
        (devices / "fake.json").write_text(json.dumps(FAKE_GPU), encoding="utf-8")
        self.configure()
        given = ["sh", "-c", GIVE_DEVICES, "sh", str(devices)]
        return inside(self.root, [*given, *self.numbered("/usr/bin/podman")])


@contextmanager
def newer_root() -> Iterator[Path]:
    """A folder with the newer distribution's engine in it, for the time of the block.

    Raises:
        AbsentError: it cannot be made here.
    """
    kept = os.environ.get(KEPT, "")
    folder = own_folder()
    root = Path(kept).absolute() if kept else folder / "root"
    try:
        if not (root / "usr" / "sbin" / "dockerd").exists():
            make_root(root)
        yield root
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_newer_podman(root: Path) -> Iterator[str]:
    """The base URL of the Podman in ``root``, with fake graphics cards, for the time of the block.

    Raises:
        AbsentError: it does not start, or is not there.
    """
    daemon = NewerPodman(own_folder(), root)
    try:
        daemon.start(bound=True)
        yield daemon.base_url
    finally:
        daemon.stop()


@contextmanager
def running_newer_engine(root: Path, *, oci: bool = False) -> Iterator[str]:
    """The base URL of the engine in ``root``, with fake graphics cards, for the time of the block.

    Raises:
        AbsentError: it does not start.
    """
    daemon = NewerDaemon(own_folder(), root, {"fake": FAKE_GPU}, oci=oci)
    try:
        daemon.start(bound=True)
        yield daemon.base_url
    finally:
        daemon.stop()


def make_root(root: Path) -> None:
    """Install the newer distribution's engine into ``root``."""
    if os.geteuid() != 0:
        raise AbsentError(f"only root can make a root of {SUITE}")
    command = [
        *(program("mmdebstrap", "mmdebstrap"), "--quiet", "--variant=essential", f"--include={PACKAGES}"),
        *('--aptopt=Apt::Install-Recommends "false"', "--dpkgopt=path-exclude=/usr/share/man/*"),
        *("--dpkgopt=path-exclude=/usr/share/doc/*", SUITE, str(root)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=ROOT_SECONDS)
    if done.returncode:
        raise AbsentError(f"no root of {SUITE}: {done.stderr.strip()[-500:]}")


def inside(root: Path, command: list[str]) -> list[str]:
    """``command`` in a mount namespace of its own, with ``root`` below the host's other folders."""
    enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", ENTER, "sh", str(root)]
    return [*enter, *_shared_folders(), "--", *command]


def _shared_folders() -> list[str]:
    found = [path.name for path in Path("/").iterdir() if path.is_dir() and not path.is_symlink()]
    return sorted(name for name in found if name not in OWN)
