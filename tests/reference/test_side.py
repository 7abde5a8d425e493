"""A side's process answers over its pipe, and says why when it does not."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import pytest

from tests.reference.environment import INSIDE, Side, SideError

SCRIPT = textwrap.dedent(
    """
    import sys
    sys.path.insert(0, {inside!r})
    import pipe

    def add(left, right):
        print("noise")
        return {{"sum": left + right}}

    def leave():
        print("going", file=sys.stderr, flush=True)
        raise SystemExit(3)

    pipe.answer_all({{"add": add, "leave": leave}})
    """
)


@pytest.fixture
def side(tmp_path: Path):
    script = tmp_path / "side.py"
    script.write_text(SCRIPT.format(inside=str(INSIDE)))
    with Side([sys.executable, str(script)], dict(os.environ), tmp_path / "log.txt") as process:
        yield process


def test_an_answer_is_not_mixed_with_what_is_printed(side: Side) -> None:
    assert side.ask("add", left=2, right=3) == {"sum": 5}
    assert side.ask("add", left=20, right=30) == {"sum": 50}
    assert side.tail().count("noise") == 2


def test_an_error_is_told_and_the_side_goes_on(side: Side) -> None:
    with pytest.raises(SideError, match="TypeError"):
        side.ask("add", left=2, right="3")
    assert side.ask("add", left=2, right=3) == {"sum": 5}


def test_a_process_that_ends_is_told_with_its_last_words(side: Side) -> None:
    with pytest.raises(SideError, match="exit code 3\ngoing"):
        side.ask("leave")


def test_a_side_ends_with_its_block(side: Side) -> None:
    with side:
        pass
    assert side.process.returncode == 0
