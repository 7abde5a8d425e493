"""Ten faults in CI; a hundred by hand: ``python -m tests.faults.harness --faults 100``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.harness import run
from tests.faults.world import World
from tests.needs import needing

pytestmark = [
    pytest.mark.integration,
    needing("vllm", "guidellm"),
]


def test_ten_faults_lose_nothing_and_leave_nothing_false(tmp_path: Path, undisturbed: World) -> None:
    assert run(tmp_path / "faults", faults=10, seed=1, rounds=0, calm_world=undisturbed) == 0
