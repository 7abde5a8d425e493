"""The files in which an engine's connector leaves hidden states: waited for, read, checked, removed.

The writer holds a lock on ``<file>.lock`` until the file is whole
(vllm/distributed/kv_transfer/kv_connector/v1/example_hidden_states_connector.py).  We wait for it with a
deadline: a writer that died, or an engine that takes no further step, must become an error, not a hang.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from speculators.errors import StageError

if TYPE_CHECKING:
    from vllm import LLM

__all__ = ["drain", "read_states", "states_path"]

DEADLINE_SECONDS = 60.0
POLL_SECONDS = 0.01


def drain(engine: LLM, deadline: float = DEADLINE_SECONDS) -> None:
    """Let the connector finish: step an engine of this process until it has nothing left to do.

    ``LLM.generate`` returns with the last token, one step before the connector hears of the last
    requests.  An engine in a process of its own keeps stepping by itself.

    Raises:
        StageError: requests are still held after ``deadline`` seconds.
    """
    core: Any = getattr(engine.llm_engine.engine_core, "engine_core", None)
    end = time.monotonic() + deadline
    while core is not None and core.scheduler.has_requests():
        if time.monotonic() > end:
            raise StageError(
                f"the connector still holds requests {deadline:.0f} s after they finished", rule="capture"
            )
        engine.llm_engine.step()


def states_path(output: Any) -> Path:
    """Where the connector writes the states of a finished request.

    Raises:
        StageError: the engine names no file.
    """
    path = (output.kv_transfer_params or {}).get("hidden_states_path")
    if not path:
        raise StageError(
            f"request {output.request_id}: the engine returned no hidden states",
            hint="the hidden-states connector is not active in this engine",
            rule="capture",
        )
    return Path(path)


def read_states(path: Path, token_ids: Sequence[int], deadline: float = DEADLINE_SECONDS) -> torch.Tensor:
    """The states [T, L, H] of exactly ``token_ids``; the file and its lock are removed.

    Raises:
        StageError: nothing whole was written in time, or it belongs to other tokens.
    """
    lock = path.with_name(path.name + ".lock")
    _await_writer(lock, deadline)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise StageError(f"{path}: no readable hidden states: {error}", rule="capture") from error
    path.unlink()
    lock.unlink(missing_ok=True)
    returned = tensors["token_ids"].tolist()
    if returned != list(token_ids):
        raise StageError(
            f"{path.name}: {len(token_ids)} tokens were sent, states came back for {len(returned)} others",
            hint="engine and connector disagree on the request: check the vLLM version",
            rule="capture",
        )
    return tensors["hidden_states"]


def _await_writer(lock: Path, deadline: float) -> None:
    end = time.monotonic() + deadline
    while True:
        try:
            with lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
        except (BlockingIOError, FileNotFoundError) as error:
            if time.monotonic() > end:
                raise StageError(
                    f"{lock}: not released within {deadline:.0f} s",
                    hint="the engine did not finish writing hidden states: see its log, and the disk",
                    rule="capture",
                ) from error
            time.sleep(POLL_SECONDS)
