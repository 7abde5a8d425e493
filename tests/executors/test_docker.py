"""The Docker executor with a real engine: what is inside, what is not, and that everything ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from speculators.errors import MachineError, StageError
from speculators.executors import request as box
from speculators.executors import supervise
from speculators.executors.base import Endpoint, Needs, Service, Step
from speculators.executors.container import NOT_STARTED
from speculators.executors.docker import DockerExecutor, Ready
from speculators.executors.engine import CLIENT_LABEL, DOCKER, LABEL, PODMAN, connect
from speculators.executors.request import PORT, limits
from speculators.pipeline.machine import containers as machine
from speculators.recipe.schema import apply_defaults, load_schema
from tests.engine.fixtures import load
from tests.engine.images import python_image as write_python_image
from tests.needs import leave_out

pytestmark = pytest.mark.integration

PYTHON = "/usr/local/bin/python3"
#: The reference of the image, once it is loaded.
IMAGE = ""
GONE_SECONDS = 10.0
FIXTURES = {DOCKER: ("engine", "python_image"), PODMAN: ("podman_engine", "podman_image")}
on_both = pytest.mark.parametrize("docker_host", FIXTURES, indirect=True)
SERVER = f"import http.server as h; h.test(h.SimpleHTTPRequestHandler, port={PORT}, bind='127.0.0.1')"
CHILD = """
import sys
from pathlib import Path
from speculators.executors.base import Step
from tests.executors import test_docker
test_docker.IMAGE = sys.argv[2]
folder = Path(sys.argv[1])
test_docker.an_executor(folder).run(Step("long", ["sleep", "600"], {}, folder / "log.txt"))
"""


@pytest.fixture(autouse=True)
def docker_host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The engine that is asked, by the name of its kind: Docker, unless the test is for both."""
    kind = getattr(request, "param", DOCKER)
    place, image = map(request.getfixturevalue, FIXTURES[kind])
    monkeypatch.setenv("DOCKER_HOST", place)
    monkeypatch.setattr(sys.modules[__name__], "IMAGE", image.reference)
    yield kind
    assert containers() == [], "a container was left behind"


def an_executor(home: Path, **container) -> DockerExecutor:
    block = apply_defaults(container, load_schema()["properties"]["container"])
    ready = Ready(IMAGE, "sha256:pin", PYTHON)
    images = dict.fromkeys(("engine", "trainer", "bench"), ready)
    executor = DockerExecutor(connect(), images, limits(block), home)
    executor.label("run-1")
    return executor


def containers() -> list[str]:
    found = connect().client.api.containers(all=True, filters={"label": LABEL})
    return [f"{one['Names']} {one['State']}" for one in found]


def python(code: str) -> list[str]:
    return [PYTHON, "-c", textwrap.dedent(code)]


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def run(tmp_path: Path, argv: list[str], needs: Needs | None = None, env=None, **container):
    heard: list[str] = []
    step = Step("it", argv, env or {}, tmp_path / "log.txt", needs=needs or Needs())
    result = an_executor(tmp_path, **container).run(step, on_line=heard.append)
    return result, heard


@on_both
def test_the_exit_code_and_every_line_come_out(tmp_path: Path):
    code = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(7)"
    result, heard = run(tmp_path, python(code), env={"NAME": "value"})
    assert result.exit_code == 7
    assert sorted(heard) == ["one", "two"]
    assert sorted((tmp_path / "log.txt").read_text().split()) == ["one", "two"]


@on_both
def test_inside_are_the_inputs_one_output_and_no_way_out(tmp_path: Path):
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "in" / "data.txt").write_text("given")
    code = f"""
        import os, pathlib, socket
        here = pathlib.Path({str(tmp_path)!r})
        print("read", (here / "in" / "data.txt").read_text())
        (here / "out" / "made.txt").write_text("made")
        for place in (here / "in" / "x", pathlib.Path("/x"), pathlib.Path("/opt/speculators/speculators/x")):
            try:
                place.write_text("no")
            except OSError as error:
                print("refused", error.errno)
        (pathlib.Path.home() / "cache").mkdir()
        status = dict(line.split(":") for line in open("/proc/self/status"))
        print("capabilities", int(status["CapEff"], 16), "privileges", status["NoNewPrivs"].strip())
        print("devices", os.listdir("/sys/class/net"))
        print("ids", os.getuid(), os.getgid())
        import speculators.stages.documents
        print("source", speculators.__file__)
    """
    needs = Needs(reads=[tmp_path / "in"], writes=[tmp_path / "out"])
    result, heard = run(tmp_path, python(code), needs)
    assert result.exit_code == 0, heard
    assert heard[0] == "read given"
    assert [line.split()[0] for line in heard].count("refused") == 3
    assert "capabilities 0 privileges 1" in heard
    assert "devices ['lo']" in heard
    assert f"ids {os.getuid()} {os.getgid()}" in heard
    assert "source /opt/speculators/speculators/__init__.py" in heard
    made = tmp_path / "out" / "made.txt"
    assert made.read_text() == "made"
    assert made.stat().st_uid == os.getuid()


def test_a_folder_of_links_is_whole_inside(tmp_path: Path):
    for name in ("blobs", "snapshots/c0", "a/b"):
        (tmp_path / "hub" / name).mkdir(parents=True)
    (tmp_path / "hub" / "blobs" / "aa").write_text("weights")
    snapshot, mine = tmp_path / "hub" / "snapshots" / "c0", tmp_path / "hub" / "a" / "b" / "mine"
    (snapshot / "model").symlink_to("../../blobs/aa")
    mine.symlink_to(snapshot)
    for folder in (snapshot, mine):
        code = f"print(open({str(folder / 'model')!r}).read())"
        assert run(tmp_path, python(code), Needs(reads=[folder]))[1] == ["weights"]


def test_a_secret_is_seen_inside_and_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_TOKEN", "s3cr3t-value")
    code = "import os; print(len(os.environ['MY_TOKEN']))"
    _, heard = run(tmp_path, python(code), secrets=["MY_TOKEN"])
    assert heard == ["12"]
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not any(b"s3cr3t-value" in path.read_bytes() for path in written)


@on_both
def test_too_much_memory_is_named_as_the_cause(tmp_path: Path):
    result, _ = run(tmp_path, python("x = bytearray(400 << 20)"), memory="96M")
    assert result.exit_code == 128 + signal.SIGKILL
    assert "container.memory" in result.cause.text
    assert "container.memory" in result.cause.hint


@on_both
def test_the_time_limit_ends_a_stage_and_says_so(tmp_path: Path):
    started = time.monotonic()
    result, _ = run(tmp_path, ["sleep", "600"], time_limit=1)
    assert "container.time_limit" in result.cause.text
    assert time.monotonic() - started < 1 + GONE_SECONDS


@on_both
def test_a_program_that_is_not_in_the_image_is_the_machines_affair(tmp_path: Path):
    with pytest.raises(MachineError, match="its program is not in the image") as caught:
        run(tmp_path, ["/no/such/program"])
    assert "images.yaml" in caught.value.hint


@on_both
def test_gpus_that_the_engine_cannot_give_are_named(docker_host: str, tmp_path: Path):
    said, hint = {
        DOCKER: ("no GPU to give", "Container Toolkit"),
        PODMAN: ("ignores requests for GPUs", "Podman 5 or newer"),
    }[docker_host]
    with pytest.raises(MachineError, match=said) as caught:
        run(tmp_path, [PYTHON, "-c", "pass"], Needs(gpus=True), gpus=1)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 4


def test_gpus_that_did_not_come_stop_the_work_before_it_starts(tmp_path: Path):
    argv = [PYTHON, "-m", "speculators.executors.require_gpus", "1", "--", PYTHON, "-c", "print('worked')"]
    with pytest.raises(MachineError, match="has not the GPUs") as caught:
        run(tmp_path, argv)
    assert "container.gpus" in caught.value.hint
    assert "worked" not in (tmp_path / "log.txt").read_text()


def test_a_full_disk_under_the_output_is_the_stages_error(tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", out], capture_output=True
    ).returncode:
        leave_out("mounting a small file system needs root")
    try:
        code = f"open({str(out / 'big')!r}, 'wb').write(bytes(4 << 20))"
        result, heard = run(tmp_path, python(code), Needs(writes=[out]))
    finally:
        subprocess.run(["umount", out], check=True)
    assert result.exit_code == 1
    assert "No space left on device" in heard[-1]


@on_both
def test_an_interrupt_lets_the_stage_save_its_work(tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    code = f"""
        import pathlib, signal, sys, time
        def save(*_):
            pathlib.Path({str(out / "saved")!r}).write_text("saved")
            sys.exit(130)
        signal.signal(signal.SIGTERM, save)
        print("ready")
        time.sleep(600)
    """

    def interrupt(line: str) -> None:
        if line == "ready":
            os.kill(os.getpid(), signal.SIGINT)

    step = Step("it", python(code), {}, tmp_path / "log.txt", needs=Needs(writes=[out]))
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored where a shell started us with &
    try:
        with pytest.raises(KeyboardInterrupt):
            an_executor(tmp_path, time_limit=60).run(step, on_line=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (out / "saved").read_text() == "saved"


@on_both
def test_a_stage_that_ignores_sigterm_is_gone_all_the_same(tmp_path: Path):
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(600)"
    service = Service("stubborn", lambda _: python(code), {}, tmp_path / "server.log")
    with an_executor(tmp_path).serve(service):
        assert wait_for(lambda: "up" in (tmp_path / "server.log").read_text(), 20)
        started = time.monotonic()
    assert time.monotonic() - started < GONE_SECONDS
    assert containers() == []


@on_both
def test_a_killed_runner_leaves_no_container(tmp_path: Path):
    runner = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), IMAGE], cwd=Path(__file__).parents[2]
    )
    assert wait_for(lambda: any("running" in one for one in containers()), 30)
    runner.kill()
    runner.wait()
    assert wait_for(lambda: containers() == [], GONE_SECONDS)


def test_a_killed_client_leaves_no_container_and_says_so(tmp_path: Path):
    def kill_the_client() -> None:
        assert wait_for(lambda: any("running" in one for one in containers()), 30)
        words = ["pkill", "-KILL", "-f", f"executors.container {tmp_path}"]
        subprocess.run(words, check=True)

    killer = threading.Thread(target=kill_the_client)
    killer.start()
    with pytest.raises(StageError, match="watched over its container was killed"):
        run(tmp_path, ["sleep", "600"])
    killer.join()
    assert containers() == []


def test_a_container_whose_client_is_gone_is_found_and_removed(tmp_path: Path):
    client = connect().client
    dead = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mark = supervise.process_mark(dead.pid)
    dead.kill()
    dead.wait()
    for name, owner in (("orphan", mark), ("elsewhere", "another-boot pid:[1] 1 1")):
        labels = {LABEL: "run-1", CLIENT_LABEL: owner}
        client.containers.create(IMAGE, ["sleep", "1"], network_mode="none", name=name, labels=labels)
    try:
        assert [one.name for one in machine.orphans(client)] == ["orphan"]
        assert [finding.detail for finding in machine.clean()] == ["removed container orphan (created)"]
    finally:
        client.api.remove_container("elsewhere", force=True)


@on_both
def test_a_client_reaches_its_server_and_nobody_else_does(tmp_path: Path):
    executor = an_executor(tmp_path)
    service = Service("server", lambda port: python(SERVER), {}, tmp_path / "server.log")
    ask = """
        import sys, time, urllib.request
        for _ in range(100):
            try:
                print(urllib.request.urlopen(sys.argv[1]).status)
                break
            except OSError:
                time.sleep(0.1)
    """
    with executor.serve(service) as endpoint:
        heard: list[str] = []
        step = Step("client", [*python(ask), endpoint.url], {}, tmp_path / "log.txt")
        assert executor.run(step, on_line=heard.append, beside=[endpoint]).exit_code == 0
        assert heard == ["200"]
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", PORT)) != 0


@on_both
def test_a_client_reaches_all_servers_that_run_side_by_side(tmp_path: Path):
    executor = an_executor(tmp_path)
    ask = """
        import sys, time, urllib.request
        for url in sys.argv[1:]:
            for _ in range(100):
                try:
                    print(urllib.request.urlopen(url).read().decode())
                    break
                except OSError:
                    time.sleep(0.1)
    """
    serve = """
        import sys
        from http.server import BaseHTTPRequestHandler, HTTPServer

        class Named(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(sys.argv[1].encode())

        HTTPServer(("127.0.0.1", int(sys.argv[2])), Named).serve_forever()
    """

    def service(name: str, beside: Endpoint | None) -> Service:
        log = tmp_path / name / "server.log"
        return Service(name, lambda port: [*python(serve), name, str(port)], {}, log, beside=beside)

    with (
        executor.serve(service("plain", None)) as plain,
        executor.serve(service("draft", plain)) as draft,
    ):
        heard: list[str] = []
        step = Step("client", [*python(ask), plain.url, draft.url], {}, tmp_path / "log.txt")
        executor.run(step, on_line=heard.append, beside=[plain, draft])
    assert heard == ["plain", "draft"]


def test_a_server_that_dies_ends_its_client_with_its_last_lines(tmp_path: Path):
    executor = an_executor(tmp_path)
    dying = python("import time; time.sleep(1); print('the server said no'); raise SystemExit(3)")
    service = Service("plain round 1", lambda port: dying, {}, tmp_path / "server.log")
    with (
        executor.serve(service) as endpoint,
        pytest.raises(StageError, match=r"ended \(exit code 3\)[^|]*the server said no"),
    ):
        executor.run(Step("client", ["sleep", "600"], {}, tmp_path / "log.txt"), beside=[endpoint])


def test_an_image_says_what_is_in_it_and_is_asked_once(tmp_path: Path):
    executor = an_executor(tmp_path)
    found = executor.interior("trainer")
    assert found.python == PYTHON
    assert "pyyaml" in found.packages
    assert found.launcher is None
    (answer,) = (tmp_path / "interiors").glob("*.json")
    before = answer.stat().st_mtime_ns
    assert an_executor(tmp_path).interior("trainer") == found
    assert answer.stat().st_mtime_ns == before


def test_a_stage_can_be_run_again_by_hand(tmp_path: Path):
    executor = an_executor(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    code = f"open({str(out / 'made')!r}, 'w').write('x'); print('once more')"
    step = Step("it", python(code), {}, tmp_path / "log.txt", needs=Needs(writes=[out]))
    executor.run(step)
    out.rename(tmp_path / "kept")
    done = subprocess.run(["sh", "-c", executor.command(step)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "once more\n", done.stderr
    assert (out / "made").is_file()


@on_both
def test_an_input_that_is_not_there_is_named_and_no_empty_folder_made_of_it(tmp_path: Path):
    """Docker refuses it in its own words, Podman makes a folder."""
    given = tmp_path / "given"
    step = Step("it", python("print('once')"), {}, tmp_path / "log.txt", needs=Needs(reads=[given]))
    executor = an_executor(tmp_path)
    with pytest.raises(StageError, match="given: gone, or never there") as refused:
        executor.run(step)
    assert "run the stage that makes it" in refused.value.hint
    given.mkdir()
    assert executor.run(step).exit_code == 0
    given.rmdir()
    command = ["sh", "-c", executor.command(step)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == NOT_STARTED
    assert "given: gone, or never there [vanished]" in done.stderr
    assert not given.exists()


def test_locks_stay_held_while_the_container_lives(tmp_path: Path):
    import fcntl

    with (tmp_path / "lock").open("w") as held, (tmp_path / "lock").open("w") as other:
        fcntl.flock(held, fcntl.LOCK_EX)
        step = Step("it", ["sleep", "3"], {}, tmp_path / "log.txt", holds=[held.fileno()])
        runs = threading.Thread(target=an_executor(tmp_path).run, args=(step,))
        runs.start()
        assert wait_for(lambda: any("running" in one for one in containers()), 30)
        held.close()
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        runs.join()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_an_engine_that_does_not_answer_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(MachineError, match=r"no container engine answers at unix:///no/such\.sock") as caught:
        connect({"DOCKER_HOST": "unix:///no/such.sock"})
    assert "--executor local" in caught.value.hint


@pytest.mark.parametrize("place", ["newer_engine", "newer_podman"])
def test_a_new_engine_gives_the_gpus_that_are_named_and_they_are_found_inside(
    place: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The cards are made up: the engine's way of handing them over is real."""
    newer = request.getfixturevalue(place)
    block = apply_defaults({"gpus": "all"}, load_schema()["properties"]["container"])
    monkeypatch.setenv("DOCKER_HOST", newer)
    built = write_python_image(tmp_path / "image.tar")
    load(newer, built)
    ready = Ready(built.reference, "sha256:pin", PYTHON)
    executor = DockerExecutor(connect(), {"engine": ready}, limits(block), tmp_path)
    heard: list[str] = []
    step = Step("it", python("print('worked')"), {}, tmp_path / "log.txt", needs=Needs(gpus=True))
    with monkeypatch.context() as patched:
        if connect().kind == DOCKER:
            # It takes a CDI name too; asking it so is how made-up cards can be had.
            patched.setattr(box, "device_request", lambda *_: box.by_name("all"))
        result = executor.run(step, on_line=heard.append)
    assert (result.exit_code, heard) == (0, ["worked"])


def test_a_server_that_takes_too_much_memory_is_said_to(tmp_path: Path):
    executor = an_executor(tmp_path, memory="96M")
    greedy = python("import time; time.sleep(1); x = bytearray(400 << 20)")
    service = Service("plain round 1", lambda port: greedy, {}, tmp_path / "server.log")
    with (
        executor.serve(service) as endpoint,
        pytest.raises(StageError, match=r"container\.memory allows") as caught,
    ):
        executor.run(Step("client", ["sleep", "600"], {}, tmp_path / "log.txt"), beside=[endpoint])
    assert "raise container.memory" in caught.value.hint
