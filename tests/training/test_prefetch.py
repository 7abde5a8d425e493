"""The next window is made while one is at work, and is the one that would have been made then."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from threading import Event

import pytest
import torch

from speculators.errors import StageError
from speculators.training import prefetch
from speculators.training.files import DRAFT_NAME, METRICS_NAME
from speculators.training.prefetch import Prefetch
from speculators.training.step import Share
from tests.models import tiny
from tests.training.test_loop import run

CPU, COUNT = torch.device("cpu"), 3


class Making:
    """Shares of one document each, and which of them were begun."""

    def __init__(self) -> None:
        self.begun: defaultdict[int, Event] = defaultdict(Event)
        self.objective = tiny.objective(tiny.draft(), 2)

    def __call__(self, number: int) -> Share:
        self.begun[number].set()
        if number == 2:
            raise StageError("shard 2 is damaged", rule="damaged-shard")
        return Share(tiny.batches(self.objective, [tiny.document(9, 4, seed=number)]))


def taken(shares: Prefetch, number: int) -> tuple[str, ...]:
    (batch,) = shares.take(number).batches
    return batch.sequence.ids


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "works_ahead", lambda device: True)


def test_on_a_cpu_a_window_is_made_when_it_is_asked_for() -> None:
    make = Making()
    with Prefetch(make, COUNT, CPU) as shares:
        assert taken(shares, 0) == ("doc-0",)
        assert not make.begun[1].is_set()


def test_elsewhere_the_next_one_is_begun_by_itself(ahead: None) -> None:
    make = Making()
    with Prefetch(make, COUNT, CPU) as shares:
        assert taken(shares, 0) == ("doc-0",)
        assert make.begun[1].wait(timeout=60)
        assert taken(shares, 1) == ("doc-1",)
        with pytest.raises(StageError, match="shard 2 is damaged"):
            shares.take(2)
        assert taken(shares, 0) == ("doc-0",)  # whichever comes first, as of a run that continues
    assert sorted(make.begun) == [0, 1, 2]


def test_a_training_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "asked")
    monkeypatch.setattr(prefetch, "works_ahead", lambda device: True)
    run(tmp_path / "ahead")
    for name in (METRICS_NAME, DRAFT_NAME):
        assert (tmp_path / "ahead" / name).read_bytes() == (tmp_path / "asked" / name).read_bytes()
