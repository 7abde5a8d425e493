"""The private engine: it leaves nothing behind, and its absence is never mistaken for a passed test."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.engine.archive import Built
from tests.engine.daemon import Daemon, client, own_folder, running_engine, sweep
from tests.engine.fixtures import load
from tests.engine.images import small_image as write_small_image
from tests.engine.packages import REQUIRE, AbsentError, program

CHECKOUT = Path(__file__).parents[2]
NEEDY = "def test_needy(engine):\n    pass\n"


@pytest.mark.parametrize(
    ("wish", "code", "said"),
    [({}, 0, "1 skipped"), ({"CI": "true"}, 1, "required here"), ({REQUIRE: "1"}, 1, "required here")],
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
def test_stopping_ends_containers_and_leaves_no_process_mount_or_file(engine: str, tmp_path: Path) -> None:
    # `engine` is asked for, not used: it skips or fails this test where there can be none.
    daemon = Daemon(Path("/tmp") / f"{tmp_path.name[:40]}-{os.getpid()}")
    daemon.start(bound=True)
    built = write_small_image(tmp_path / "small.tar")
    load(daemon.base_url, built)
    running(daemon.base_url, built)
    started = time.monotonic()
    daemon.stop()
    # Its grace period would be over after ten seconds: the container was removed first.
    assert time.monotonic() - started < 10
    assert not daemon.folder.exists()
    assert str(daemon.folder) not in Path("/proc/self/mountinfo").read_text()
    assert processes_naming(daemon.folder) == []


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


def running(base_url: str, built: Built) -> None:
    """A container that does not end when it is asked to."""
    docker = client(base_url)
    docker.containers.create(built.reference, ["sleep", "600"], network_mode="none").start()
    docker.close()


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
