from __future__ import annotations

import fcntl
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from speculators.datagen.state_files import drain, read_states, states_path
from speculators.errors import StageError


def leave(folder: Path, tokens: list[int]) -> Path:
    """What a connector leaves: the file and its lock, released."""
    path = folder / "request.safetensors"
    save_file({"hidden_states": torch.ones(len(tokens), 2, 3), "token_ids": torch.tensor(tokens)}, path)
    (folder / "request.safetensors.lock").touch()
    return path


def test_states_are_read_and_their_files_removed(tmp_path: Path) -> None:
    states = read_states(leave(tmp_path, [4, 5]), [4, 5])
    assert torch.equal(states, torch.ones(2, 2, 3))
    assert list(tmp_path.iterdir()) == []


def test_states_of_other_tokens_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="2 tokens were sent"):
        read_states(leave(tmp_path, [4, 6]), [4, 5])


def test_a_writer_that_never_finishes_is_an_error_and_no_hang(tmp_path: Path) -> None:
    path = leave(tmp_path, [4])
    with (tmp_path / "request.safetensors.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StageError, match="not released within"):
            read_states(path, [4], deadline=0.05)


def test_a_slow_writer_is_awaited(tmp_path: Path) -> None:
    path = leave(tmp_path, [4])
    held = (tmp_path / "request.safetensors.lock").open()
    fcntl.flock(held, fcntl.LOCK_EX)
    threading.Timer(0.2, held.close).start()
    started = time.monotonic()
    read_states(path, [4], deadline=10)
    assert time.monotonic() - started >= 0.2


def test_a_file_cut_short_is_an_error(tmp_path: Path) -> None:
    path = leave(tmp_path, [4])
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(StageError, match="no readable hidden states"):
        read_states(path, [4])


def test_a_request_without_a_file_is_an_error() -> None:
    with pytest.raises(StageError, match="request 7: the engine returned no hidden states"):
        states_path(SimpleNamespace(request_id="7", kv_transfer_params=None))


class Engine:
    """The surface of an in-process engine that ``drain`` uses; holds requests for ``steps`` more steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.scheduler = SimpleNamespace(has_requests=lambda: self.steps > 0)
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(engine_core=self), step=self.step)

    def step(self) -> None:
        self.steps -= 1


def test_an_engine_is_stepped_until_its_connector_is_done() -> None:
    engine = Engine(steps=3)
    drain(engine)  # type: ignore[arg-type]
    assert engine.steps == 0


def test_a_connector_that_never_lets_go_is_an_error() -> None:
    engine = Engine(steps=1)
    engine.llm_engine.step = lambda: None
    with pytest.raises(StageError, match="still holds requests"):
        drain(engine, deadline=0.05)  # type: ignore[arg-type]
