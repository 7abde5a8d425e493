"""Wheels are unpacked to their Python files, and asked with what stands in for a GPU."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.contracts.engines import Engine, UnavailableError, extension, find_engine, unpack
from tests.contracts.no_gpu import EmptyModules


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "vllm-9.9.9-cp38-abi3-manylinux_2_28_x86_64.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("vllm/__init__.py", "")
        archive.writestr("vllm/_C.abi3.so", "machine code")
        archive.writestr("vllm/attention/_fa.cpython-311-x86_64-linux-gnu.so", "machine code")
        archive.writestr("vllm/kernels/tuned.json", "{}")
        archive.writestr("vllm-9.9.9.dist-info/METADATA", "Name: vllm\nVersion: 9.9.9\n")
    return path


def test_only_code_and_metadata_are_kept_and_the_extensions_are_remembered(
    wheel: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    unpack(wheel, out)
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == {
        "vllm/__init__.py",
        "vllm-9.9.9.dist-info/METADATA",
        "speculators_no_gpu-1.dist-info/METADATA",
        "speculators_no_gpu-1.dist-info/entry_points.txt",
        "origin.json",
    }
    origin = json.loads((out / "origin.json").read_text())
    assert origin["extensions"] == ["vllm._C", "vllm.attention._fa"]
    assert origin["wheel"] == wheel.name
    assert len(origin["sha256"]) == 64


def test_a_compiled_file_has_its_modules_name() -> None:
    assert extension("vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so") == "vllm.vllm_flash_attn._vllm_fa2_C"


def test_an_engines_process_sees_its_own_code_first_and_no_variable_of_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_USE_SOMETHING", "1")
    environment = Engine("vllm", "9.9.9", tmp_path / "code", {}).environment(tmp_path)
    assert environment["PYTHONPATH"].startswith(f"{tmp_path / 'code'}:")
    assert "VLLM_USE_SOMETHING" not in environment
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_left_out_modules_are_empty_and_no_others_are_found() -> None:
    finder = EmptyModules(["left_out"])
    spec = finder.find_spec("left_out", None)
    assert spec is not None
    assert spec.loader is finder
    assert finder.find_spec("left_out.part", None) is None
    assert finder.find_spec("another", None) is None


def test_a_version_that_cannot_be_had_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECULATORS_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UnavailableError, match=r"vllm 9\.9\.9: "):
        find_engine("9.9.9")
    assert not (tmp_path / "contracts" / "vllm-9.9.9").exists()
