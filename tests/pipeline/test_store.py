"""The store: an output is whole or it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from speculators.pipeline.store import Store, default_home
from speculators.stages.documents import OUTPUT_NAME

KEY = "0123456789abcdef" * 4


def fill(store: Store, text: str) -> None:
    with store.filling("prompts", KEY) as folder:
        (folder / "rows.jsonl").write_text(text)
        (folder / OUTPUT_NAME).write_text("{}")


def test_a_finished_output_is_found_again(tmp_path: Path):
    store = Store(tmp_path)
    assert store.find("prompts", KEY) is None
    fill(store, "rows")
    found = store.find("prompts", KEY)
    assert found is not None
    assert (found / "rows.jsonl").read_text() == "rows"


def test_a_block_that_fails_leaves_nothing_to_trust(tmp_path: Path):
    store = Store(tmp_path)

    def fail() -> None:
        with store.filling("prompts", KEY) as folder:
            (folder / OUTPUT_NAME).write_text("{}")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        fail()
    assert store.find("prompts", KEY) is None


def test_what_a_failed_attempt_left_is_there_for_the_next_of_the_same_key(tmp_path: Path):
    store = Store(tmp_path)

    def interrupted() -> None:
        with store.filling("responses", KEY) as folder:
            (folder / "shard-00000.jsonl").write_text("rows")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with store.filling("responses", KEY) as folder:
        assert (folder / "shard-00000.jsonl").read_text() == "rows"


def test_home_comes_from_the_environment_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("SPECULATORS_HOME", str(tmp_path / "mine"))
    assert default_home() == tmp_path / "mine"
    monkeypatch.delenv("SPECULATORS_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_home() == tmp_path / "cache" / "speculators"
