"""Several ranks within a test, meeting over loopback.

They are forked from a process that has done nothing but import torch, so that nobody imports it again.
Forked from the test's own, they would inherit the locks of threads that earlier tests had started.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

from speculators.errors import MachineError
from speculators.training.ranks import Ranks, joined
from speculators.training.self_check import Check


def _rank(index: int, count: int, port: int, work: Callable[..., Any], values: tuple, folder: Path) -> None:
    place = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    os.environ.update(TORCHELASTIC_USE_AGENT_STORE="True", GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    with joined(torch.device("cpu")) as ranks:
        torch.save(work(ranks, *values), folder / f"{index}.pt")


def together(count: int, folder: Path, work: Callable[..., Any], *values: Any) -> list[Any]:
    """``work(ranks, *values)`` on each of ``count`` gloo ranks: what they returned, in their order."""
    if count == 1:
        return [work(Ranks(), *values)]
    folder.mkdir(parents=True, exist_ok=True)
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    arguments = (count, store.port, work, values, folder)
    multiprocessing.get_context("forkserver").set_forkserver_preload(["torch.distributed.fsdp"])
    multiprocessing.start_processes(_rank, args=arguments, nprocs=count, start_method="forkserver")
    return [torch.load(folder / f"{index}.pt", weights_only=False) for index in range(count)]


# What ranks do that ``launch`` starts: they are found by name in a new process.


def count_together(start: int) -> dict[str, Any]:
    with joined(torch.device("cpu")) as ranks:
        return {"sum": int(ranks.sum(torch.tensor(start + ranks.index))), "pids": ranks.gather(os.getpid())}


def second_fails(cause: str) -> dict[str, Any]:
    """The second rank ends as ``cause`` says, while the others wait for it."""
    with joined(torch.device("cpu")) as ranks:
        if ranks.index == 1:
            if cause == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if cause == "bug":
                raise ZeroDivisionError("a bug of ours")
            raise MachineError("no room", hint="make some", rule="room")
        ranks.sum(torch.tensor(1))
    return {}


def faults_in_half_precision(precision: str) -> dict[str, Any]:
    """A process whose kernel takes it down, which nothing within it can catch."""
    if precision == "bfloat16":
        os.kill(os.getpid(), signal.SIGSEGV)
    return {"name": "a GPU", "checks": [Check("fast path", 0.0, 1e-4).document()]}


def faults_together(kinds: list[str]) -> dict[str, Any]:
    """One process answers, several do not."""
    if int(os.environ["WORLD_SIZE"]) > 1:
        os.kill(os.getpid(), signal.SIGBUS)
    return {kind: {"losses": [1.0]} for kind in kinds}


def wait_for_ever(note: Path) -> dict[str, Any]:
    note.write_text(str(os.getpid()))
    time.sleep(600)
    return {}
