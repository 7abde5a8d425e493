"""The local executor with real processes: nothing is mocked, everything must be gone at the end."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from speculators.errors import MachineError, StageError
from speculators.executors import local
from speculators.executors.base import Endpoint, Service, Step, log_tail
from speculators.executors.local import LocalExecutor, free_port

GONE_SECONDS = 10.0


def alive(process: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


#: Writes the ids of itself, a child in its group, and a grandchild that left group and session.
FAMILY = """
    import os, signal, subprocess, sys, time
    from pathlib import Path
    for number in {ignored}:
        signal.signal(number, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    away = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    partial = Path({path!r} + ".partial")
    partial.write_text(f"{{os.getpid()}} {{child.pid}} {{away.pid}}")
    partial.rename({path!r})
    time.sleep(600)
"""


def family(path: Path, *, stubborn: bool = False) -> list[str]:
    return python(FAMILY.format(path=str(path), ignored="[signal.SIGTERM]" if stubborn else "[]"))


def members(path: Path) -> list[int]:
    assert wait_for(path.exists, 20), "the family did not start"
    return [int(word) for word in path.read_text(encoding="utf-8").split()]


def test_run_forwards_the_exit_code_and_streams_lines(tmp_path: Path) -> None:
    heard: list[str] = []
    step = Step(
        "talk",
        python("import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"),
        {},
        tmp_path / "log",
    )
    result = LocalExecutor().run(step, on_line=heard.append)
    assert result.exit_code == 3
    assert heard == ["one", "two"] or heard == ["two", "one"]
    assert sorted((tmp_path / "log").read_text().split()) == ["one", "two"]


def test_lines_arrive_while_the_step_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    moments: list[float] = []
    code = "import time; print('early'); time.sleep(1); print('late')"
    LocalExecutor().run(
        Step("slow", python(code), {}, tmp_path / "log"), on_line=lambda _: moments.append(time.monotonic())
    )
    assert moments[1] - moments[0] > 0.8


def test_the_environment_reaches_the_step(tmp_path: Path) -> None:
    step = Step("where", python("import os; print(os.environ['ARM'])"), {"ARM": "plain"}, tmp_path / "log")
    LocalExecutor().run(step)
    assert (tmp_path / "log").read_text().split() == ["plain"]


def test_a_signal_becomes_128_plus_its_number(tmp_path: Path) -> None:
    step = Step(
        "killed", python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), {}, tmp_path / "log"
    )
    assert LocalExecutor().run(step).exit_code == 128 + signal.SIGKILL


def test_a_step_that_takes_longer_than_it_may_is_ended_with_all_of_it(tmp_path: Path) -> None:
    step = Step("hangs", family(tmp_path / "ids", stubborn=True), {}, tmp_path / "log", seconds=5)
    with pytest.raises(StageError, match="hangs: no answer in 5 s") as caught:
        LocalExecutor().run(step)
    assert caught.value.rule == "overdue"
    assert not any(alive(process) for process in members(tmp_path / "ids"))


def test_a_missing_command_is_the_machines_fault(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="no-such-command"):
        LocalExecutor().run(Step("absent", ["no-such-command"], {}, tmp_path / "log"))


RUNNER = """
    import fcntl, signal, sys
    from pathlib import Path
    from speculators.executors.base import Step
    from speculators.executors.local import LocalExecutor
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lock = open({lock!r}, "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    step = Step("work", {command!r}, {{}}, Path({log!r}), holds=[lock.fileno()])
    try:
        LocalExecutor().run(step)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def start_runner(tmp_path: Path, command: list[str]) -> subprocess.Popen[bytes]:
    """A process that runs ``command`` as a step which holds a lock on ``tmp_path / "lock"``."""
    code = RUNNER.format(lock=str(tmp_path / "lock"), command=command, log=str(tmp_path / "log"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(python(code), env=environment)


def is_locked(path: Path) -> bool:
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_an_interrupted_step_has_time_to_save_its_work(tmp_path: Path) -> None:
    code = f"""
        import signal, sys, time
        from pathlib import Path
        def save(*_):
            time.sleep(7)  # longer than a supervisor waits that has lost its runner
            Path({str(tmp_path / "saved")!r}).touch()
            sys.exit(0)
        signal.signal(signal.SIGTERM, save)
        Path({str(tmp_path / "ready")!r}).touch()
        time.sleep(600)
    """
    runner = start_runner(tmp_path, python(code))
    assert wait_for((tmp_path / "ready").exists, 20)
    runner.terminate()
    assert runner.wait(20) == 130
    assert (tmp_path / "saved").exists()


def test_a_second_interrupt_does_not_wait_for_a_stubborn_step(tmp_path: Path) -> None:
    runner = start_runner(tmp_path, family(tmp_path / "pids", stubborn=True))
    pids = members(tmp_path / "pids")
    runner.terminate()
    time.sleep(1)
    runner.terminate()
    runner.wait(GONE_SECONDS)
    assert wait_for(lambda: not any(alive(pid) for pid in pids), GONE_SECONDS)


def test_a_lock_outlives_a_killed_runner_just_as_long_as_its_step(tmp_path: Path) -> None:
    runner = start_runner(tmp_path, family(tmp_path / "pids", stubborn=True))
    pids = members(tmp_path / "pids")
    runner.kill()
    runner.wait()
    assert is_locked(tmp_path / "lock")
    assert wait_for(lambda: not is_locked(tmp_path / "lock"), GONE_SECONDS)
    assert not any(alive(pid) for pid in pids)


def test_what_a_step_leaves_running_is_ended(tmp_path: Path) -> None:
    code = f"""
        import subprocess, sys
        from pathlib import Path
        sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
        left = subprocess.Popen(sleep, start_new_session=True)
        Path({str(tmp_path / "pid")!r}).write_text(str(left.pid))
    """
    assert LocalExecutor().run(Step("messy", python(code), {}, tmp_path / "log")).exit_code == 0
    assert not alive(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("failure", [None, ValueError, KeyboardInterrupt])
def test_leaving_serve_ends_the_whole_family(tmp_path: Path, failure: type[BaseException] | None) -> None:
    service = Service("family", lambda _: family(tmp_path / "pids"), {}, tmp_path / "log")
    try:
        with LocalExecutor().serve(service) as endpoint:
            pids = members(tmp_path / "pids")
            assert all(alive(pid) for pid in pids)
            assert endpoint.exit_code() is None
            if failure is not None:
                raise failure
    except (ValueError, KeyboardInterrupt):
        assert failure is not None
    assert [pid for pid in pids if alive(pid)] == []


def test_a_server_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    service = Service("stubborn", lambda _: family(tmp_path / "pids", stubborn=True), {}, tmp_path / "log")
    with LocalExecutor().serve(service):
        pids = members(tmp_path / "pids")
        started = time.monotonic()
    assert time.monotonic() - started < GONE_SECONDS
    assert [pid for pid in pids if alive(pid)] == []


def test_nothing_outlives_a_killed_runner(tmp_path: Path) -> None:
    runner = start_runner(tmp_path, family(tmp_path / "pids"))
    pids = members(tmp_path / "pids")
    runner.kill()
    runner.wait()
    assert wait_for(lambda: not any(alive(pid) for pid in pids), GONE_SECONDS)


def test_a_server_that_dies_ends_its_client(tmp_path: Path) -> None:
    server = python("import time, sys; print('out of memory', flush=True); time.sleep(1); sys.exit(7)")
    client = Step("client", family(tmp_path / "pids"), {}, tmp_path / "client.log")
    executor = LocalExecutor()
    with (
        executor.serve(Service("plain", lambda _: server, {}, tmp_path / "server.log")) as endpoint,
        pytest.raises(StageError, match=r"exit code 7.*\n.*out of memory") as caught,
    ):
        executor.run(client, beside=[endpoint])
    assert caught.value.rule == "server-failed"
    assert [pid for pid in members(tmp_path / "pids") if alive(pid)] == []


def test_a_port_that_somebody_took_meanwhile_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        monkeypatch.setattr(local, "free_port", lambda: taken)

        def server(port: int) -> list[str]:
            return [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]

        executor = LocalExecutor()
        client = Step("client", python("import time; time.sleep(60)"), {}, tmp_path / "client.log")
        with (
            executor.serve(Service("plain", server, {}, tmp_path / "server.log")) as endpoint,
            pytest.raises(StageError, match=r"server 'plain' ended[\s\S]*Address already in use"),
        ):
            executor.run(client, beside=[endpoint])


def test_of_several_servers_beside_a_client_the_one_that_dies_is_named(tmp_path: Path) -> None:
    executor = LocalExecutor()
    stays, dies = python("import time; time.sleep(60)"), python("print('no room'); raise SystemExit(3)")
    with (
        executor.serve(Service("plain", lambda _: stays, {}, tmp_path / "plain.log")) as plain,
        executor.serve(Service("draft", lambda _: dies, {}, tmp_path / "draft.log", beside=plain)) as draft,
        pytest.raises(StageError, match=r"server 'draft' ended \(exit code 3\)[\s\S]*no room"),
    ):
        executor.run(Step("client", stays, {}, tmp_path / "client.log"), beside=[plain, draft])


def test_a_client_that_ends_first_leaves_the_server_alone(tmp_path: Path) -> None:
    executor = LocalExecutor()

    def server(port: int) -> list[str]:
        return [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]

    with executor.serve(Service("files", server, {}, tmp_path / "server.log")) as endpoint:
        code = f"""
            import time, urllib.request
            for _ in range(100):
                try:
                    print(urllib.request.urlopen("{endpoint.url}/").status)
                    break
                except OSError:
                    time.sleep(0.1)
        """
        result = executor.run(Step("client", python(code), {}, tmp_path / "client.log"), beside=[endpoint])
        assert endpoint.exit_code() is None
    assert result.exit_code == 0
    assert log_tail(tmp_path / "client.log") == "200"
    assert endpoint.exit_code() is not None


def test_a_free_port_can_be_listened_on() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
        listener.listen()


def test_log_tail_of_nothing_is_empty(tmp_path: Path) -> None:
    assert log_tail(tmp_path / "absent") == ""
    (tmp_path / "log").write_text("\n".join(str(i) for i in range(50)))
    assert log_tail(tmp_path / "log", 2) == "48\n49"


def test_an_endpoint_only_needs_to_tell_whether_its_server_ended(tmp_path: Path) -> None:
    ended = Endpoint("gone", "http://127.0.0.1:1", [], tmp_path / "log", lambda: 137)
    with pytest.raises(StageError) as caught:
        LocalExecutor().run(
            Step("client", python("import time; time.sleep(60)"), {}, tmp_path / "client.log"), beside=[ended]
        )
    assert "memory" in caught.value.hint
