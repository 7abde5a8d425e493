"""The system's packages that tests against real engines need: found, or installed where that is allowed."""

from __future__ import annotations

import os
import shutil
import subprocess


class AbsentError(Exception):
    """What the tests need is not on this machine; the message says what, and why it was not installed."""


def program(name: str, *packages: str) -> str:
    """The path of program ``name``, after installing Debian's ``packages`` if it is not there.

    Raises:
        AbsentError: it is not there and cannot be installed.
    """
    found = shutil.which(name)
    if found:
        return found
    wanted = " ".join(packages)
    apt = shutil.which("apt-get")
    if apt is None:
        raise AbsentError(f"{name} is not on PATH, and there is no apt-get to install {wanted} with")
    if os.geteuid() != 0:
        raise AbsentError(f"{name} is not on PATH, and only root can install {wanted}")
    _install(apt, *packages)
    found = shutil.which(name)
    if found is None:
        raise AbsentError(f"{wanted} was installed, but {name} is not on PATH")
    return found


def _install(apt: str, *packages: str) -> None:
    """Install ``packages`` without what they only recommend.

    No daemon may start from here: on a machine that lets packages start theirs, the packaged engine would
    run beside the tests and change the host's network.
    """
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    options = ["-o", "DPkg::Lock::Timeout=120", "-o", "DPkg::Options::=--force-unsafe-io"]
    command = [apt, "-qq", *options, "install", "-y", "--no-install-recommends", *packages]
    subprocess.run([apt, "-qq", *options, "update"], env=environment, capture_output=True, timeout=300)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise AbsentError(
            f"{' '.join(packages)} could not be installed: {(done.stderr or done.stdout).strip()[-500:]}"
        )
