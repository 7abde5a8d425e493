"""The two statements against the files that they speak of."""

from __future__ import annotations

from speculators.bundle.attestation import (
    PROVENANCE,
    PROVENANCE_NAME,
    STATEMENT,
    TEST_RESULT,
    TESTS_NAME,
    subjects,
)
from speculators.bundle.create import BUNDLE_NAME
from speculators.bundle.verification.documents import Bundle
from speculators.pipeline.record import RECORD_NAME


def check(bundle: Bundle) -> str:
    """The two statements against the files that they speak of."""
    description = bundle.description()
    weights = description["weights"]
    sealed = bundle.object("stages/package/output.json")["files"] if weights else {}
    for name, entry in weights.items():
        if sealed.get(name) != entry:
            bundle.fault(BUNDLE_NAME, f"another {name} than stage 'package' sealed")
        if bundle.has(name) and bundle.digest(name) != entry["sha256"]:
            bundle.fault(name, "not the file that stage 'package' sealed")
    expected = subjects(weights, bundle.digest(RECORD_NAME))
    for name, kind in ((PROVENANCE_NAME, PROVENANCE), (TESTS_NAME, TEST_RESULT)):
        statement = bundle.object(name)
        if (statement["_type"], statement["predicateType"]) != (STATEMENT, kind):
            bundle.fault(name, "not the statement that it should be")
        if statement["subject"] != expected:
            bundle.fault(name, "its subjects are not the files of this bundle")
    absent = [name for name in weights if not bundle.has(name)]
    if absent:
        bundle.open.append(f"weights: {len(absent)} files are named by digest only ({', '.join(absent)})")
    bundle.open += [
        "unsigned: nothing shows who made the bundle",
        "whether the measurements are true: 'speculators run BUNDLE' repeats them",
    ]
    return f"provenance: 2 statements, {len(expected)} subjects"
