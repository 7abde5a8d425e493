"""The CUDA images' requirement files: they resolve with hashes, and vLLM's wheel does not exclude a pin."""

from __future__ import annotations

from pathlib import Path

import pytest

from speculators.executors.images import containers_folder, load_images
from tests.contracts.engines import UnavailableError, find_engine
from tests.contracts.requirements import conflicts, pins, unresolved
from tests.needs import leave_out

CUDA = [image for image in load_images().images.values() if image.device == "cuda" and image.build]
SECONDS = 240
METADATA = """\
Metadata-Version: 2.4
Name: vllm
Requires-Dist: transformers<5.18.0,>=5.10.4
Requires-Dist: numba==0.65.0; platform_machine == "x86_64"
Requires-Dist: Prometheus_Client>=0.18
Requires-Dist: fastsafetensors==9; extra == "fast"
"""


def test_a_pin_that_the_wheel_excludes_is_named() -> None:
    assert conflicts({"transformers": "5.19.0"}, METADATA, "x86_64") == [
        "transformers 5.19.0 is pinned, the wheel requires transformers<5.18.0,>=5.10.4"
    ]
    assert conflicts({"prometheus-client": "0.17"}, METADATA, "x86_64") != []


def test_pins_that_the_wheel_allows_or_says_nothing_of_are_no_conflicts() -> None:
    allowed = {"transformers": "5.17.1", "scipy": "1.17.0", "fastsafetensors": "1.0"}
    assert conflicts(allowed, METADATA, "x86_64") == []
    # Another machine, other requirements.
    assert conflicts({"numba": "0.66.0"}, METADATA, "aarch64") == []
    assert conflicts({"numba": "0.66.0"}, METADATA, "x86_64") != []


def test_pins_are_read_whatever_their_spelling() -> None:
    text = (
        "# words\nPrometheus_Client==0.26.0 \\\n  --hash=sha256:00\nscipy==1.17.0; sys_platform == 'linux'\n"
    )
    assert pins(text) == {"prometheus-client": "0.26.0", "scipy": "1.17.0"}


@pytest.mark.integration
def test_a_hash_that_no_file_has_does_not_resolve(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text(f"iniconfig==2.3.1 --hash=sha256:{'0' * 64}\n", encoding="utf-8")
    assert any("HASHES" in line for line in unresolved(file, "x86_64", SECONDS))


@pytest.mark.integration
@pytest.mark.parametrize("image", CUDA, ids=lambda image: image.name)
def test_the_pins_resolve_with_their_hashes_and_agree_with_vllm(image) -> None:
    file = _file(image.build)
    text = file.read_text(encoding="utf-8")
    assert pins(text), f"{file.name} pins nothing"
    try:
        engine = find_engine(image.vllm)
    except UnavailableError as error:
        leave_out(f"the CUDA wheel cannot be had here: {error}")
    assert engine.folder is not None
    metadata = (engine.folder / f"vllm-{image.vllm}.dist-info" / "METADATA").read_text(encoding="utf-8")
    for platform in image.platforms:
        machine = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}[platform]
        assert conflicts(pins(text), metadata, machine) == []
        assert unresolved(file, machine, SECONDS) == []


def _file(build: str) -> Path:
    return containers_folder() / build / "requirements.txt"
