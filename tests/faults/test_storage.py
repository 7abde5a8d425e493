"""A disk that is full or read-only ends the run with its cause; real file systems, so root is needed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.world import World, write_world
from tests.needs import leave_out, needing

pytestmark = [
    pytest.mark.integration,
    needing("vllm", "guidellm"),
]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return write_world(tmp_path / "world", rounds=1)


@pytest.fixture
def mount(world: World) -> Iterator[Callable[[str], None]]:
    """Put a file system with the given options where the world's store lies."""
    home = world.folder / "home"
    home.mkdir()

    def mounted(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(home)]
        if subprocess.run(command, check=False, capture_output=True).returncode != 0:
            # Only root may, and not in every container; no other way fills a disk for certain.
            leave_out("cannot mount a file system here")

    yield mounted
    subprocess.run(["umount", str(home)], check=False, capture_output=True)


@pytest.mark.parametrize(
    ("options", "words"), [("size=100k", "No space left on device"), ("ro", "Read-only file system")]
)
def test_a_store_that_cannot_be_written_ends_the_run_with_its_cause(
    world: World, mount: Callable[[str], None], options: str, words: str
) -> None:
    mount(options)
    runner = world.start()
    output, _ = runner.communicate(timeout=300)
    assert runner.returncode == 4, output
    assert words in output
    assert "Traceback" not in output
    assert "= help: " in output
