"""Ten faults in CI; a hundred by hand: ``python -m tests.faults.harness --faults 100``."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.faults.harness import run

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not (find_spec("vllm") and find_spec("guidellm")), reason="needs vLLM and GuideLLM"),
]


def test_ten_faults_lose_nothing_and_leave_nothing_false(tmp_path: Path) -> None:
    assert run(tmp_path / "faults", faults=10, seed=1, rounds=0) == 0
