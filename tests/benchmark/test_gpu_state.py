"""What is asked of ``nvidia-smi``, by a stand-in on the path: no GPU is needed, and none was asked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from speculators.benchmark import gpu_state, machine_state
from speculators.benchmark.gpu_state import clocks, lasting_processes, others, processes, read_clocks

Answer = Callable[..., None]


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """A stand-in that answers what it is told: ``later`` from the second question for processes on."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(gpu_state, "REST_SECONDS", 0.01)

    def answers(clocks: str = "", processes: str = "", later: str | None = None) -> None:
        for name, text in (("clocks", clocks), ("first", processes), ("then", later or processes)):
            (tmp_path / name).write_text(text)
        if later == "":
            (tmp_path / "then").write_text("")
        script = tmp_path / "nvidia-smi"
        script.write_text(
            f"#!/bin/sh\ncd {tmp_path}\ncase $1 in\n"
            "--query-gpu=*) cat clocks;;\n"
            "--query-compute-apps=*) cat first; cp then first;;\n"
            "*) exit 2;;\nesac\n"
        )
        script.chmod(0o755)

    return answers


def test_clocks_are_averaged_over_gpus_and_idling_is_no_throttling() -> None:
    assert read_clocks("1980, 0x0000000000000000\n1970, 0x0000000000000004\n") == (1975.0, True)
    assert read_clocks("1980, 0x0000000000000001\n") == (1980.0, False)
    assert read_clocks("[N/A], [N/A]\n") == (None, False)


def test_the_driver_is_asked(nvidia_smi: Answer) -> None:
    nvidia_smi("1980, 0x0000000000000008\n", "41\n42\n42\n")
    assert clocks() == (1980.0, True)
    assert processes() == {41, 42}


def test_without_a_driver_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (clocks(), processes(), lasting_processes()) == ((None, None), None, None)


def test_a_server_that_is_just_ending_is_nobody_elses(nvidia_smi: Answer) -> None:
    nvidia_smi(processes="41\n42\n", later="42\n")
    assert lasting_processes() == {42}
    nvidia_smi(processes="41\n", later="")
    assert lasting_processes() == frozenset()


@pytest.mark.parametrize(
    ("before", "serving", "count"),
    [
        (frozenset({42}), frozenset({42, 50}), 1),
        (frozenset(), frozenset({50}), 0),
        (frozenset(), frozenset(), None),  # not even our own server is shown
        (frozenset(), None, None),
        (None, None, None),
    ],
)
def test_company_is_known_where_processes_are_shown_at_all(
    before: frozenset[int] | None, serving: frozenset[int] | None, count: int | None
) -> None:
    assert others(before, serving) == count


def test_clocks_of_gpus_are_never_taken_for_the_processors(
    nvidia_smi: Answer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("cpu MHz\t\t: 2000.0\n")
    monkeypatch.setattr(machine_state, "CPUINFO", info)
    monkeypatch.setattr(machine_state, "CLOCK_SECONDS", 0.05)
    nvidia_smi("1980, 0x0000000000000004\n")

    def work() -> None:
        time.sleep(1.0)

    _, seen = machine_state.watched(work)
    assert (seen["clock_mhz"], seen["gpu_clock_mhz"], seen["throttled"]) == (2000.0, 1980.0, True)
