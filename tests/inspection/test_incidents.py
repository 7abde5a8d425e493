"""What went wrong for users is named; of public drafts nothing is called broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from speculators.convert.run import Request, convert
from speculators.inspection.draft import inspect_draft
from speculators.inspection.findings import CAUSES
from tests.convert import sources
from tests.inspection.faults import Subject
from tests.inspection.incidents import INCIDENTS, Incident, dflash, foreign, named, native
from tests.inspection.public_drafts import PUBLIC, inspected


@pytest.mark.parametrize("incident", INCIDENTS, ids=lambda incident: incident.threads)
def test_the_cause_of_a_real_incident_is_named(incident: Incident, tmp_path: Path) -> None:
    found = named(incident, tmp_path)
    assert found is not None
    assert found.is_defect == incident.defect
    assert found.trap
    assert found.name in CAUSES


#: What the incidents were made from, before they were broken.
WHOLE = {
    "speculators": native(),
    "speculators dflash": dflash(),
    "eagle3": foreign(sources.safeailab),
    "specforge": foreign(sources.specforge),
    "nvidia": foreign(sources.nvidia),
    "eagle": foreign(sources.eagle1),
    "dflash": foreign(sources.dflash),
}


@pytest.mark.parametrize("layout", WHOLE)
def test_before_it_was_broken_nothing_was_wrong(layout: str, tmp_path: Path) -> None:
    subject: Subject = WHOLE[layout](tmp_path)
    assert inspect_draft(subject.folder, subject.verifier).defects == []


def test_a_converted_draft_may_keep_the_head_that_its_trainer_trained(tmp_path: Path) -> None:
    subject = foreign(sources.safeailab)(tmp_path)
    convert(Request(str(subject.folder), str(subject.verifier)), tmp_path / "new")
    found = inspect_draft(tmp_path / "new", subject.verifier)
    assert [one.name for one in found.findings if "lm_head" in one.name] == [
        "lm_head.weight is the verifier's"
    ]
    assert found.defects == []


@pytest.mark.parametrize("name", PUBLIC)
def test_nothing_is_wrong_with_a_public_draft(name: str, tmp_path: Path) -> None:
    for found in inspected(name, tmp_path):
        assert found.defects == []
        assert len(found.passed) > 8  # it was looked at, not given up
