"""Every injected fault is named for what it is, and nothing is said of the good checkpoint."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from speculators.inspection.draft import inspect_draft
from speculators.inspection.findings import CAUSES
from speculators.inspection.mending import mend
from tests.inspection.faults import FAULTS, forget, good

SEED = random.SystemRandom().randrange(1 << 20)  # another one each time: nothing is tuned to it


def test_nothing_is_said_of_the_good_checkpoint(tmp_path: Path) -> None:
    subject = good(tmp_path, SEED)
    assert inspect_draft(subject.folder, subject.verifier).findings == []
    assert inspect_draft(subject.folder).findings == []


@pytest.mark.parametrize("name", FAULTS)
def test_the_cause_of_an_injected_fault_is_named(name: str, tmp_path: Path) -> None:
    fault, subject = FAULTS[name], good(tmp_path, SEED)
    fault.inject(subject)
    found = inspect_draft(subject.folder, subject.verifier)
    named = {one.name: one for one in found.defects}
    assert fault.cause in named, f"seed {SEED}"
    assert fault.says in named[fault.cause].what
    assert all(one.why and one.mend and one.trap for one in found.findings)


MENDED = (
    "ids one layer late", "ids unsorted", "ids null", "d2t absolute", "d2t zero", "d2t missing",
    "norm_before_residual flipped", "norm_before_residual missing", "norm_before_fc flipped",
    "norm_output missing", "RoPE theta another", "RoPE lost", "RoPE scaling null", "vocabulary padded",
    "a second file", "a model_type at the top", "a quantisation that came along",
)  # fmt: skip


@pytest.mark.parametrize("name", MENDED)
def test_what_can_be_mended_in_one_way_is(name: str, tmp_path: Path) -> None:
    subject = good(tmp_path, SEED)
    before = {path.name: path.read_bytes() for path in subject.folder.iterdir()}
    FAULTS[name].inject(subject)
    broken = {path.name: path.read_bytes() for path in subject.folder.iterdir()}
    assert mend(subject.folder, tmp_path / "mended", subject.verifier)
    assert inspect_draft(tmp_path / "mended", subject.verifier).findings == []
    assert (tmp_path / "mended" / "model.safetensors").read_bytes() == before["model.safetensors"]
    assert {path.name: path.read_bytes() for path in subject.folder.iterdir()} == broken


def test_what_is_not_certain_is_left_and_said_again(tmp_path: Path) -> None:
    subject = good(tmp_path, SEED)
    FAULTS["fc random"].inject(subject)
    mend(subject.folder, tmp_path / "mended", subject.verifier)
    assert [one.name for one in inspect_draft(tmp_path / "mended").defects] == ["tensors are as written"]


def test_every_cause_that_a_fault_names_is_explained() -> None:
    assert {fault.cause for fault in FAULTS.values()} <= CAUSES.keys()


#: What leaves no trace in a stranger's checkpoint, which has no record of its training: only a probe tells.
UNTRACED = {
    "ids one layer late", "ids one layer early", "norm_before_residual flipped", "norm_output flipped",
    "norm epsilon another", "fc random", "fc in another order",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(FAULTS.keys() - UNTRACED))
def test_in_a_strangers_checkpoint_too_the_fault_shows(name: str, tmp_path: Path) -> None:
    subject = good(tmp_path, SEED)
    forget(subject)
    assert inspect_draft(subject.folder, subject.verifier).findings == []
    FAULTS[name].inject(subject)
    assert inspect_draft(subject.folder, subject.verifier).findings
