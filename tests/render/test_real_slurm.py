"""The scripts under a real Slurm of one node, started here; Apptainer is a stand-in that says when it ran."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from speculators.recipe.recipe import require_recipe
from speculators.render import folder
from speculators.render.jobs import Options
from tests.needs import leave_out
from tests.render.rendered import SMOLLM, cpu_images, required, stand_in

pytestmark = pytest.mark.integration

CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
APPTAINER = """
if [[ $1 = pull ]]; then echo image > "$3"; exit; fi
stage=; before=
for word in "$@"; do if [[ $before = --only ]]; then stage=$word; fi; before=$word; done
echo "$stage" >> order
trap 'echo "$stage was asked to end" >> order; exit 130' TERM
if [[ -e slow-$stage ]]; then for _ in {1..150}; do sleep 1; done; fi
[[ ! -e fail-$stage ]]
"""
STAGES = ["verifier", "prompts", "responses", "hidden_states", "training", "package", "benchmark"]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment that reaches a Slurm of one node."""
    if os.geteuid() != 0:
        leave_out("Slurm is started by root only")
    for command in ("slurmctld", "slurmd", "sbatch"):
        required(command, "slurm-wlm")
    root = tmp_path_factory.mktemp("slurm")
    host = socket.gethostname().partition(".")[0]
    (root / "slurm.conf").write_text(CONFIGURATION.format(host=host, root=root, ports=free_ports(2)))
    env = {**os.environ, "SLURM_CONF": str(root / "slurm.conf")}
    for daemon in ("slurmctld", "slurmd"):
        (root / ("state" if daemon == "slurmctld" else "spool")).mkdir()
        subprocess.run([daemon], env=env, check=True, timeout=30, capture_output=True)
    try:
        wait(lambda: "idle" in subprocess.run(["sinfo"], env=env, capture_output=True, text=True).stdout)
        yield env
    finally:
        for daemon in ("slurmd", "slurmctld"):
            if (pid := root / f"{daemon}.pid").is_file():
                os.kill(int(pid.read_text()), signal.SIGTERM)
        wait(lambda: not list(root.glob("*.pid")))


def wait(done, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture
def jobs(slurm: dict[str, str], tmp_path: Path) -> Iterator[Path]:
    """A job folder with an awkward name."""
    place = tmp_path / "it's a $(job)"
    options = Options(cpus=1, partition="main", home=str(tmp_path / "the store"))
    folder.write(folder.render(require_recipe(SMOLLM), "sbatch", cpu_images(), options), place)
    stand_in(tmp_path / "bin", "apptainer", APPTAINER)
    slurm["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    yield place
    subprocess.run(["scancel", "--user=root"], env=slurm, timeout=30, check=False)


def all_ended(slurm: dict[str, str]) -> bool:
    # Not by --states=RUNNING,...: a job is in none of the named states in the moment Slurm signals it.
    command = ["squeue", "--noheader"]
    return subprocess.run(command, env=slurm, capture_output=True, text=True, check=True).stdout == ""


def submit(slurm: dict[str, str], jobs: Path) -> list[str]:
    """Submit, wait until nothing is queued; what the containers said."""
    done = subprocess.run([jobs / "submit.sh"], env=slurm, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    wait(lambda: all_ended(slurm))
    return (jobs / "order").read_text().splitlines()


def test_stages_run_in_order_and_none_runs_or_waits_behind_a_failed_one(
    slurm: dict[str, str], jobs: Path
) -> None:
    (jobs / "fail-prompts").touch()
    assert submit(slurm, jobs) == STAGES[:2]
    (jobs / "fail-prompts").unlink()
    assert submit(slurm, jobs)[2:] == STAGES  # the same command again
    logs = [path.name.rpartition("-")[0] for path in (jobs / "logs").iterdir()]
    assert set(logs) == {f"smollm2-135m-eagle3-{stage}" for stage in STAGES}


def test_a_stage_is_asked_to_end_before_its_time_is_up(slurm: dict[str, str], jobs: Path) -> None:
    (jobs / "slow-verifier").touch()
    (jobs / "logs").mkdir()
    (jobs / "images").mkdir()
    # Slurm looks every 30 s and warns up to 30 s early: 10 to 40 s after the start, never before the trap.
    command = ["sbatch", "--time=1", "--signal=B:TERM@20", "--chdir", jobs, jobs / "1-verifier.sbatch"]
    subprocess.run(command, env=slurm, cwd=jobs, check=True, timeout=30, capture_output=True)
    wait(lambda: (jobs / "order").is_file() and all_ended(slurm), seconds=120)
    assert (jobs / "order").read_text().splitlines() == ["verifier", "verifier was asked to end"]
