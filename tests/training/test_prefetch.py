"""The next sequence is made while one is at work, and is the one that would have been made then."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from threading import Event

import pytest
import torch

from speculators.errors import StageError
from speculators.training import prefetch
from speculators.training.files import DRAFT_NAME, METRICS_NAME
from speculators.training.objective import Batch
from speculators.training.prefetch import Prefetch
from speculators.training.step import Share
from tests.models import tiny
from tests.training.test_loop import run

CPU, COUNT, SIZE = torch.device("cpu"), 3, 3


class Making:
    """Shares of three documents each, and which of these were begun, by window and place."""

    def __init__(self) -> None:
        self.begun: defaultdict[tuple[int, int], Event] = defaultdict(Event)
        self.objective = tiny.objective(tiny.draft(), 2)

    def __call__(self, number: int) -> Share:
        if number == 2:
            raise StageError("shard 2 is damaged", rule="damaged-shard")
        documents = [tiny.document(9, 4, seed=10 * number + place) for place in range(SIZE)]
        batches = tiny.batches(self.objective, *([document] for document in documents))

        def bring(place: int) -> Batch:
            self.begun[number, place].set()
            return batches[place]

        return Share(batches, bring)

    @property
    def places(self) -> set[tuple[int, int]]:
        return {place for place, event in self.begun.items() if event.is_set()}


def named(share: Share, place: int) -> str:
    (name,) = share.bring(place).sequence.ids
    return name


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "works_ahead", lambda device: True)


def test_on_a_cpu_a_sequence_is_made_when_it_is_asked_for() -> None:
    make = Making()
    with Prefetch(make, COUNT, CPU) as shares:
        share = shares.take(0)
        assert make.places == set()
        assert named(share, 0) == "doc-0"
        assert make.places == {(0, 0)}


def test_elsewhere_the_next_one_is_begun_by_itself_and_no_other(ahead: None) -> None:
    make = Making()
    with Prefetch(make, COUNT, CPU) as shares:
        share = shares.take(0)
        assert make.places == set()
        for place in range(SIZE):
            assert named(share, place) == f"doc-{place}"
            following = (0, place + 1) if place + 1 < SIZE else (1, 0)
            assert make.begun[following].wait(timeout=60)
            assert make.places == {*((0, before) for before in range(place + 1)), following}
        share = shares.take(1)
        assert [named(share, place) for place in range(SIZE)] == ["doc-10", "doc-11", "doc-12"]
        assert named(share, 1) == "doc-11"  # once more, as after a failure
        with pytest.raises(StageError, match="shard 2 is damaged"):
            shares.take(2)
        assert named(shares.take(0), 2) == "doc-2"  # whichever comes first, as of a run that continues


def test_a_training_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "asked")
    monkeypatch.setattr(prefetch, "works_ahead", lambda device: True)
    run(tmp_path / "ahead")
    for name in (METRICS_NAME, DRAFT_NAME):
        assert (tmp_path / "ahead" / name).read_bytes() == (tmp_path / "asked" / name).read_bytes()
