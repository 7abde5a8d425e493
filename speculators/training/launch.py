"""Start a process for each device, and end with what ended them.

The processes find each other as torchrun's would, by its environment variables; their meeting point is a
store in this process, on a port that is nobody else's.  When one fails, the others cannot go on: they are
ended, and the failure that came first is what the caller gets, not that of those who lost their partner.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import distributed, multiprocessing

from speculators.documents import known_json, write_json
from speculators.errors import BY_EXIT_CODE, EXIT_BUG, EXIT_INTERRUPTED, SpeculatorsError, StageError
from speculators.training.interrupts import deferred_interrupts

Argument = TypeVar("Argument")
LOOPBACK = "127.0.0.1"
#: Ranks of one machine talk over its loopback device, whatever its name resolves to.
INTERFACES = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
FOLDER_NAME = "ranks"
RESULT_NAME = "result.json"
POLL_SECONDS = 0.2
#: What the others have to notice by themselves that one is gone, before they are ended.
GRACE_SECONDS = 5.0


class Rank(NamedTuple):
    """A process that was started, and where it leaves the cause of its failure."""

    process: SpawnProcess
    cause: Path


def launch(
    entry: Callable[[Argument], dict[str, Any]],
    argument: Argument,
    count: int,
    work: Path,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Run ``entry`` in ``count`` processes; what the first of them returns, a JSON document.

    ``entry`` and ``argument`` are sent to them by pickling.  ``work`` is a folder for their notes.  Ranks
    that have not ended after ``seconds`` are killed; None: they may take all they want.

    Raises:
        SpeculatorsError: that of the rank that failed first, or ``StageError`` if it was killed or overdue.
        KeyboardInterrupt: this process or the ranks were asked to end, and they have.
    """
    folder = work / FOLDER_NAME
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.iterdir():
        left.unlink()
    store = distributed.TCPStore(LOOPBACK, 0, is_master=True, wait_for_workers=False)
    spawn = multiprocessing.get_context("spawn")
    with deferred_interrupts() as interrupted:
        ranks = []
        for index in range(count):
            cause = folder / f"rank-{index}.json"
            process = spawn.Process(
                target=_run, args=(entry, argument, index, count, store.port, cause), daemon=True
            )
            process.start()
            ranks.append(Rank(process, cause))
        first = _watch(ranks, interrupted, None if seconds is None else time.monotonic() + seconds)
        overdue = not first and any(rank.process.is_alive() for rank in ranks)
        asked = interrupted() or any(ranks[index].process.exitcode == EXIT_INTERRUPTED for index in first)
        # Who was asked to end may still be writing where it is; whoever asked has the last word on that.
        _end(ranks, None if asked else 0.0 if overdue else GRACE_SECONDS)
        if asked:
            raise KeyboardInterrupt
    if overdue:
        raise StageError(f"no answer in {seconds:.0f} s", rule="overdue")
    if first:
        raise failure(ranks, first)
    result: dict[str, Any] = known_json(folder / RESULT_NAME)
    return result


def _watch(ranks: Sequence[Rank], interrupted: Callable[[], bool], deadline: float | None) -> list[int]:
    """Wait until all ranks have ended well, or some did not: which of them were the first.

    At the ``deadline`` nobody waits any longer, whoever still lives.
    """
    told = False
    while True:
        living = [rank.process.sentinel for rank in ranks if rank.process.is_alive()]
        if living:
            wait(living, POLL_SECONDS)
        if failed := [index for index, rank in enumerate(ranks) if rank.process.exitcode]:
            return failed
        if not living or (deadline is not None and time.monotonic() >= deadline):
            return []
        if interrupted() and not told:  # a signal may have been meant for this process alone
            told = True
            for rank in ranks:
                rank.process.terminate()


def _end(ranks: Sequence[Rank], seconds: float | None) -> None:
    """Give the ranks ``seconds`` to end by themselves (None: all they want), then kill what is left."""
    deadline = None if seconds is None else time.monotonic() + seconds
    for rank in ranks:
        rank.process.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
    for rank in ranks:
        rank.process.kill()
        rank.process.join()


def failure(ranks: Sequence[Rank], first: Sequence[int]) -> Exception:
    """The error that stands for the ranks that failed ``first``."""
    count = len(ranks)
    for index in first:
        code = ranks[index].process.exitcode or 0
        if code < 0 and not ranks[index].cause.exists():
            return StageError(
                f"rank {index} of {count} was killed by {signal.Signals(-code).name}",
                hint="most often the machine's memory ran out: lower training.devices or "
                "training.sequence_length; finished steps are kept",
                rule="rank-killed",
            )
    # Who lost a partner fails later than the partner, whatever was noticed first here.
    causes = [cause for rank in ranks if (cause := known_json(rank.cause))]
    if not causes:
        codes = ", ".join(f"rank {index}: {ranks[index].process.exitcode}" for index in first)
        return StageError(f"ranks ended without a word (exit codes {codes})", rule="rank-ended")
    cause = min(causes, key=lambda one: one["time"])
    if cause["exit_code"] == EXIT_BUG:
        return RuntimeError(f"rank {cause['rank']} of {count}:\n{cause['message']}")
    kind = BY_EXIT_CODE.get(cause["exit_code"], StageError)
    return kind(cause["message"], hint=cause["hint"], rule=cause["rule"])


def _run(
    entry: Callable[[Argument], dict[str, Any]],
    argument: Argument,
    index: int,
    count: int,
    port: int,
    cause: Path,
) -> None:
    """The life of one rank."""
    place = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR=LOOPBACK)
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # the meeting point is there: none shall open one
    for name, interface in INTERFACES.items():
        os.environ.setdefault(name, interface)
    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    try:
        result = entry(argument)
        if index == 0:
            write_json(cause.parent / RESULT_NAME, result)
        return
    except SpeculatorsError as error:
        code, told = error.exit_code, error.document()
    except KeyboardInterrupt:
        code, told = EXIT_INTERRUPTED, {}
    except Exception:  # whatever else is our bug, and told with its traceback
        code, told = EXIT_BUG, {"message": traceback.format_exc()}
    write_json(cause, {"rank": index, "time": time.time(), "exit_code": code, **told})
    # Not the interpreter's way out: it would wait for partners that are gone.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
