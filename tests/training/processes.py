"""Several ranks within a test: forked from it, so that nobody imports torch again, meeting over loopback."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

from speculators.training.ranks import Ranks, joined


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
    multiprocessing.start_processes(_rank, args=arguments, nprocs=count, start_method="fork")
    return [torch.load(folder / f"{index}.pt", weights_only=False) for index in range(count)]
