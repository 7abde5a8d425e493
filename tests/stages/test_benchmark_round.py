"""The client of one launch: a load that no longer moves is ended, one that does is left alone."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from speculators.errors import StageError
from speculators.stages.benchmark_round import _watched


class Server:
    """Counts a token at each look until it has made ``most``."""

    def __init__(self, most: int) -> None:
        self.most, self.made = most, 0

    def tokens(self) -> int | None:
        self.made = min(self.made + 1, self.most)
        return self.made


def watched(tmp_path: Path, server: Server, seconds: float) -> int:
    this: Any = SimpleNamespace(output=tmp_path, client=server, stall_timeout=1.0)
    return _watched(this, [sys.executable, "-c", f"import time; time.sleep({seconds})"], {})


def test_a_server_without_a_new_token_hangs_and_ends_the_load(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(StageError, match=r"hangs: no token within 1 s") as caught:
        watched(tmp_path, Server(most=2), seconds=60)
    assert caught.value.rule == "server-stalled"
    assert time.monotonic() - started < 10


def test_a_slow_server_that_makes_tokens_is_waited_for(tmp_path: Path) -> None:
    assert watched(tmp_path, Server(most=100), seconds=3) == 0
