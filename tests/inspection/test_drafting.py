"""The strongest claim of the models: they say what vLLM drafts, token by token, and predict its counters.

Small trained drafts of each kind on a small random verifier; see ``tests/inspection/drafting.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from speculators.documents import read_json
from speculators.serving.environment import engine_environment
from tests.convert.serving import LAYOUTS
from tests.inspection.drafting import ALGORITHMS, POSITIONS

pytestmark = pytest.mark.integration
pytest.importorskip("vllm")

#: Guesses of one pass do not depend on the ones before; a chain is comparable up to its first miss.
ONE_PASS = ("peagle", "dflash")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drafting")
    environment = {**os.environ, **engine_environment({})}
    program = [sys.executable, "-m", "tests.inspection.drafting", str(root)]
    done = subprocess.run(program, env=environment, timeout=1500, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return root


@pytest.fixture(params=ALGORITHMS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def found(folder: Path, kind: str) -> dict[str, Any]:
    document: dict[str, Any] = read_json(folder / f"{kind}.json")
    return document


def test_the_text_is_the_verifiers_own(found: dict[str, Any]) -> None:
    assert [row["tokens"] for row in found["served"]["rows"]] == [one["tokens"] for one in found["documents"]]


class Guess(NamedTuple):
    """A token that the engine drafted, ours, and one that is as good: the same but where two logits tie."""

    place: tuple[int, int]  # row and position
    engine: int
    ours: int
    as_good: int


@pytest.fixture
def guesses(found: dict[str, Any], kind: str) -> list[Guess]:
    """Those of the engine's that ours can be compared with."""
    predicted, comparable = found["predicted"], []
    for one, row, ours, as_good in zip(
        found["documents"], found["served"]["rows"], predicted["proposed"], predicted["as_good"]
    ):
        for place, drafted in row["drafts"]:
            for position, token in enumerate(drafted):
                if place >= len(ours) or ours[place][position] < 0:
                    break  # behind the end of what we know
                comparable.append(
                    Guess((place, position), token, ours[place][position], as_good[place][position])
                )
                if kind not in ONE_PASS and token != one["tokens"][place + 2 + position]:
                    break
    return comparable


@pytest.fixture
def fallen(guesses: list[Guess]) -> int:
    """Ties that the engine's rounding decided otherwise; on most machines none."""
    return sum(guess.engine != guess.ours for guess in guesses)


def test_every_draft_of_the_engine_is_the_models(
    found: dict[str, Any], guesses: list[Guess], fallen: int
) -> None:
    for one, row in zip(found["documents"], found["served"]["rows"]):
        assert row["drafts"][0][0] == one["prompt"] - 1
    assert [guess for guess in guesses if guess.engine not in (guess.ours, guess.as_good)] == []
    assert len(guesses) > 100
    assert fallen <= 0.01 * len(guesses)


def test_the_counters_are_as_predicted(found: dict[str, Any], fallen: int) -> None:
    predicted, served = found["predicted"]["counters"], found["served"]["counters"]
    behind_ties = fallen * POSITIONS  # each moves the drafts behind it
    assert abs(served["vllm:spec_decode_num_drafts"] - predicted["drafts"]) <= behind_ties
    assert predicted["drafts"] > 50
    per_position = served["vllm:spec_decode_num_accepted_tokens_per_pos"]
    assert len(per_position) == POSITIONS
    # Served, the last draft of a request may match tokens that are then cut off.
    surplus = sum(per_position) - sum(predicted["accepted"])
    assert -behind_ties <= surplus <= predicted["undecided"] + behind_ties
    assert sum(predicted["accepted"]) > 0.1 * predicted["drafts"]


@pytest.mark.parametrize("layout", [*LAYOUTS, "mtp"])
def test_a_converted_checkpoint_drafts_what_its_source_forward_drafts(layout: str, folder: Path) -> None:
    found = read_json(folder / f"converted-{layout}.json")
    compared = 0
    for row, ours in zip(found["served"]["rows"], found["drafted"]):
        for place, drafted in row["drafts"]:
            if place < len(ours):
                assert drafted == ours[place], place
                compared += len(drafted)
    assert compared > 150
