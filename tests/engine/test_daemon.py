"""The private engine: it leaves nothing behind, and its absence is never mistaken for a passed test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from speculators.executors import supervise
from tests.engine.archive import Built
from tests.engine.daemon import Daemon, client, own_folder, running_engine, sweep
from tests.engine.fixtures import load, present
from tests.engine.images import small_image as write_small_image
from tests.engine.packages import AbsentError, program
from tests.engine.podman import PodmanDaemon
from tests.needs import REQUIRE

CHECKOUT = Path(__file__).parents[2]
of_each_kind = pytest.mark.parametrize("kind", [Daemon, PodmanDaemon])
NEEDY = "def test_needy(engine):\n    pass\n"


@pytest.mark.parametrize(
    ("wish", "code", "said"),
    [
        ({}, 0, "1 skipped"),
        ({"CI": "true"}, 1, "may be left out"),
        ({REQUIRE: "1"}, 1, "may be left out"),
    ],
)
def test_an_absent_engine_skips_a_test_and_fails_it_where_one_is_required(
    wish: dict[str, str], code: int, said: str, tmp_path: Path
) -> None:
    (tmp_path / "test_needy.py").write_text(f"from tests.engine.fixtures import engine\n\n\n{NEEDY}")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib -ra\n")
    (tmp_path / "nothing").mkdir()
    asked = {"CI", REQUIRE, "DOCKER_HOST"}
    environment = {name: value for name, value in os.environ.items() if name not in asked}
    environment |= {"PATH": str(tmp_path / "nothing"), "PYTHONPATH": str(CHECKOUT), **wish}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_needy.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout
    assert said in done.stdout
    assert "dockerd is not on PATH" in done.stdout


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AbsentError, match=r"docker-registry .* no apt-get to install docker-registry"):
        program("docker-registry", "docker-registry")


def test_what_a_killed_session_left_is_removed_and_what_a_living_one_has_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = tmp_path / f"speculators-engine-{ended.pid}-left"
    (left / "data").mkdir(parents=True)
    kept = own_folder()
    sweep()
    assert not left.exists()
    assert kept.exists()


@pytest.mark.integration
def test_an_engine_that_is_named_and_answers_is_used(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine)
    with running_engine() as base_url:
        assert base_url == engine
    with client(engine).api as api:
        assert api.ping()


@pytest.mark.integration
@of_each_kind
def test_stopping_ends_containers_and_leaves_no_process_mount_or_file(
    kind: type[Daemon], tmp_path: Path
) -> None:
    with present(started(kind, tmp_path), kind.name) as daemon:
        running(daemon.base_url, write_small_image(tmp_path / "small.tar"))
        began = time.monotonic()
        daemon.stop()
        # Its grace period would be over after ten seconds: the container was removed first.
        assert time.monotonic() - began < 10
        assert left_of(daemon) == []


@pytest.mark.integration
def test_an_engine_ends_with_the_process_that_started_it(engine: str, tmp_path: Path) -> None:
    folder = Path("/tmp") / f"{tmp_path.name[:40]}-{os.getpid()}"
    code = (
        "import os, signal; from pathlib import Path; from tests.engine.daemon import Daemon\n"
        f"Daemon(Path({str(folder)!r})).start(bound=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, timeout=60)
    deadline = time.monotonic() + 20
    while processes_naming(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = processes_naming(folder)
    Daemon(folder).stop()
    assert left == []


@pytest.mark.integration
@of_each_kind
def test_what_a_killed_engine_left_ends_with_its_folder(kind: type[Daemon], tmp_path: Path) -> None:
    with present(started(kind, tmp_path), kind.name) as daemon:
        inside = running(daemon.base_url, write_small_image(tmp_path / "small.tar"))
        os.kill(int((daemon.folder / "docker.pid").read_text()), signal.SIGKILL)
        assert lives(inside)
        daemon.stop()
        deadline = time.monotonic() + 5
        while lives(inside) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not lives(inside)
        assert left_of(daemon) == []


@contextmanager
def started(kind: type[Daemon], tmp_path: Path) -> Iterator[Daemon]:
    daemon = kind(Path("/tmp") / f"{tmp_path.name[:40]}-{os.getpid()}")
    try:
        daemon.start(bound=True)
        yield daemon
    finally:
        daemon.stop()


def left_of(daemon: Daemon) -> list[str]:
    """Its processes, its mounts and its folder, as far as they are still here."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    folder = [str(daemon.folder)] if daemon.folder.exists() else []
    return [
        *processes_naming(daemon.folder),
        *(line for line in mounts if str(daemon.folder) in line),
        *folder,
    ]


def lives(process: int) -> bool:
    return process in supervise.parents()  # which leaves out those that only wait to be counted


def running(base_url: str, built: Built) -> int:
    """A container that does not end when it is asked to; its process."""
    load(base_url, built)
    docker = client(base_url)
    container = docker.containers.create(built.reference, ["sleep", "600"], network_mode="none")
    container.start()
    container.reload()
    docker.close()
    return int(container.attrs["State"]["Pid"])


def processes_naming(folder: Path) -> list[str]:
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = line.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found
