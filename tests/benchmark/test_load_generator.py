"""A load that no longer moves is ended, one that does is left alone; who is asked in turn."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import cast

import pytest

from speculators.benchmark.load_generator import Asked, in_turn, watched
from speculators.errors import StageError
from speculators.serving.client import ServerClient


class Server:
    """Counts a token at each look until it has made ``most``."""

    def __init__(self, most: int) -> None:
        self.most, self.made = most, 0

    def tokens(self) -> int | None:
        self.made = min(self.made + 1, self.most)
        return self.made


def asked(name: str, client: Server | None = None, **body: float) -> Asked:
    return Asked(name, cast("ServerClient", client), body)


def end_of(folder: Path, seconds: float, *servers: Asked) -> int:
    """The exit code of a load of so many seconds, with a second's patience for ``servers``."""
    argv = [sys.executable, "-c", f"import time; time.sleep({seconds})"]
    return watched(argv, {}, folder, servers, 1.0)


def test_a_server_without_a_new_token_hangs_and_ends_the_load(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(StageError, match=r"hangs: no token of plain within 1 s") as caught:
        end_of(tmp_path, 60, asked("plain", Server(most=2)))
    assert caught.value.rule == "server-stalled"
    assert time.monotonic() - started < 10


def test_a_slow_server_that_makes_tokens_is_waited_for(tmp_path: Path) -> None:
    assert end_of(tmp_path, 3, asked("plain", Server(most=100))) == 0


def test_arms_whose_requests_carry_the_same_are_asked_in_turn_and_others_apart() -> None:
    arms = [
        asked("draft", temperature=0.0, seed=0),
        asked("sampled-plain", temperature=0.6, seed=0),
        asked("plain", seed=0, temperature=0.0),
    ]
    groups = [[one.name for one in group] for group in in_turn(arms)]
    assert groups == [["draft", "plain"], ["sampled-plain"]]


def test_one_of_two_servers_that_makes_tokens_is_enough_to_go_on(tmp_path: Path) -> None:
    hung = asked("plain", Server(0))
    assert end_of(tmp_path, 3, hung, asked("draft", Server(100))) == 0
    with pytest.raises(StageError, match="no token of plain nor draft within 1 s"):
        end_of(tmp_path, 60, hung, asked("draft", Server(2)))
