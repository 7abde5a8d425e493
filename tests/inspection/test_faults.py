"""Every injected fault is named for what it is, and nothing is said of the good checkpoint."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from speculators.checkpoint.folder import read_object
from speculators.errors import StageError
from speculators.inspection.draft import inspect_draft
from speculators.inspection.findings import CAUSES
from speculators.inspection.mending import mend
from tests.inspection.faults import FAULTS, IDS, edit_config, forget, good, layer, named

SEED = random.SystemRandom().randrange(1 << 20)  # another one each time: nothing is tuned to it


def test_nothing_is_said_of_the_good_checkpoint(tmp_path: Path) -> None:
    subject = good(tmp_path, SEED)
    assert inspect_draft(subject.folder, subject.verifier).findings == []
    assert inspect_draft(subject.folder).findings == []


@pytest.mark.parametrize("name", FAULTS)
def test_the_cause_of_an_injected_fault_is_named(name: str, tmp_path: Path) -> None:
    subject = good(tmp_path, SEED)
    assert named(FAULTS[name], subject), f"seed {SEED}"
    found = inspect_draft(subject.folder, subject.verifier).findings
    assert all(one.why and one.mend and one.trap for one in found)


MENDED = (
    "ids one layer late", "ids unsorted", "ids null", "d2t absolute", "d2t zero", "d2t missing",
    "norm_before_residual flipped", "norm_before_residual missing", "norm_before_fc flipped",
    "norm_output missing", "RoPE theta another", "RoPE lost", "RoPE scaling null", "vocabulary padded",
    "a second file", "a model_type at the top", "a quantisation that came along", "fc in another order",
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
    assert [one.name for one in inspect_draft(tmp_path / "mended").defects] == ["fc is the trained one"]


def test_layers_that_a_shallow_verifier_does_not_have_are_not_made_up(tmp_path: Path) -> None:
    subject = good(tmp_path, SEED)
    forget(subject)
    FAULTS["ids null"].inject(subject)  # of 6 layers: 2, 6 / 2 and 6 - 3 are two layers
    mend(subject.folder, tmp_path / "mended", subject.verifier)
    assert read_object(tmp_path / "mended" / "config.json")[IDS] is None
    assert "aux layers written" in {one.name for one in inspect_draft(tmp_path / "mended").findings}


@pytest.mark.parametrize("ids", [5, "2,6,9", {"a": 1}, [2, "4", 5], [True, 2, 3], 0])
def test_ids_that_are_no_list_of_numbers_are_not_counted(ids: object, tmp_path: Path) -> None:
    subject = good(tmp_path, SEED)
    forget(subject)
    edit_config(subject, lambda document: document.update({IDS: ids}))
    before = read_object(subject.folder / "config.json")
    mend(subject.folder, tmp_path / "mended", subject.verifier)
    assert read_object(tmp_path / "mended" / "config.json") == before


def test_a_number_that_no_json_holds_is_refused_by_its_place(tmp_path: Path) -> None:
    subject = good(tmp_path, SEED)
    forget(subject)
    layer(attention_dropout=float("inf"))(subject)
    with pytest.raises(StageError, match=r"draft/config\.json: a value is not what is read there"):
        mend(subject.folder, tmp_path / "mended", subject.verifier)
    assert not (tmp_path / "mended").exists()


def test_a_layer_that_is_no_object_is_put_back_from_the_weights_record(tmp_path: Path) -> None:
    subject = good(tmp_path, SEED)
    whole = read_object(subject.folder / "config.json")["transformer_layer_config"]
    edit_config(subject, lambda document: document.update(transformer_layer_config="x"))
    mend(subject.folder, tmp_path / "mended", subject.verifier)
    again = read_object(tmp_path / "mended" / "config.json")["transformer_layer_config"]
    assert again.items() <= whole.items()
    assert inspect_draft(tmp_path / "mended", subject.verifier).defects == []


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
