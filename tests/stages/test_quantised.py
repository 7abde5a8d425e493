"""The benchmark's second verifier: taken where it fits the draft, refused where it does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from speculators.errors import StageError
from speculators.stages import quantised
from speculators.stages.documents import StageInput
from tests.convert.test_retarget import foreign_rows, write_tokenizer
from tests.convert.test_retarget import quantised as quantised_copy
from tests.inspection.faults import Subject, good


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    made = good(tmp_path, 5)
    write_tokenizer(made.verifier)
    return made


def step(subject: Subject, copy: Path, root: Path) -> StageInput:
    """The stage's input: what earlier stages left, and the model that the recipe names."""
    inputs = {"verifier": root / "stages" / "verifier", "package": root / "stages" / "package"}
    shutil.copytree(subject.verifier, inputs["verifier"] / "model")
    shutil.copytree(subject.folder, inputs["package"] / "model")
    output = root / "output"
    output.mkdir()
    return StageInput("quantised", {}, inputs, {"benchmark.quantised": [copy]}, output)


def test_a_copy_that_fits_becomes_a_model_folder_of_its_own(
    subject: Subject, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    copy = quantised_copy(subject, tmp_path / "fp8")
    result = quantised.run(step(subject, copy, tmp_path))
    assert (result["id"], result["quantisation"]) == ("local:fp8", "compressed-tensors")
    stored = tmp_path / "output" / "model" / "model.safetensors"
    assert stored.read_bytes() == (copy / "model.safetensors").read_bytes()
    assert "warning: lm_head.weight is the verifier's: differs" in capsys.readouterr().out


def test_a_snapshot_of_the_hub_cache_keeps_its_name_and_commit(subject: Subject, tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--owner--some-fp8" / "snapshots" / ("ab" * 20)
    snapshot.parent.mkdir(parents=True)
    quantised_copy(subject, snapshot)
    assert quantised.run(step(subject, snapshot, tmp_path))["id"] == f"owner/some-fp8@{'ab' * 20}"


def test_another_model_is_refused(subject: Subject, tmp_path: Path) -> None:
    copy = quantised_copy(subject, tmp_path / "fp8")
    foreign_rows(copy)
    with pytest.raises(StageError, match="not a copy of the verifier that the draft can serve"):
        quantised.run(step(subject, copy, tmp_path))
