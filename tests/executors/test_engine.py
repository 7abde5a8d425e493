"""Finding the engine: the one that is named, else Docker's, else Podman's."""

from __future__ import annotations

from pathlib import Path

import pytest

from speculators.errors import MachineError
from speculators.executors.engine import DOCKER_SOCKET, connect, places


def test_a_named_engine_is_the_only_one_asked():
    assert places({"DOCKER_HOST": "tcp://there:1", "XDG_RUNTIME_DIR": "/run/user/1"}) == ["tcp://there:1"]


def test_dockers_socket_comes_first_and_podmans_where_it_is(tmp_path: Path):
    found = places({"XDG_RUNTIME_DIR": str(tmp_path)})
    assert found[0] == DOCKER_SOCKET
    assert f"unix://{tmp_path}/podman/podman.sock" not in found
    (tmp_path / "podman").mkdir()
    (tmp_path / "podman" / "podman.sock").touch()
    assert places({"XDG_RUNTIME_DIR": str(tmp_path)})[-1] == f"unix://{tmp_path}/podman/podman.sock"


def test_every_place_that_did_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("speculators.executors.engine.DOCKER_SOCKET", f"unix://{tmp_path}/docker.sock")
    (tmp_path / "podman").mkdir()
    (tmp_path / "podman" / "podman.sock").touch()
    with pytest.raises(MachineError, match="no container engine answers") as caught:
        connect({"XDG_RUNTIME_DIR": str(tmp_path)})
    for name in ("docker.sock", "podman.sock"):
        assert f"{tmp_path}" in caught.value.message
        assert name in caught.value.message
    assert caught.value.exit_code == 4
