"""What two runs are compared by, read from a run folder or from a bundle of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from speculators.bundle.verify import Verified
from speculators.documents import known_json
from speculators.pipeline.record import RECORD_NAME

Document = dict[str, Any]
#: The stages that leave something to compare byte by byte, in the order of the work.
ARTEFACT_STAGES = ("verifier", "prompts", "responses", "hidden_states", "training", "package")


class Evidence(NamedTuple):
    """The documents of one run that count; an empty one is not there.

    ``sitting``: what the rounds of its benchmark had in common.  ``benchmark``: what they measured.
    ``outputs``: each stage's sealed files.
    """

    record: Document
    report: Document
    sitting: Document
    benchmark: Document
    keys: dict[str, Document]
    outputs: dict[str, Document]

    def stage(self, name: str) -> Document:
        """A stage's entry in the record."""
        return next((one for one in self.record["stages"] if one["name"] == name), {})


def evidence_of_run(folder: Path) -> Evidence:
    """That of the finished run in ``folder``."""
    return _evidence(lambda name: known_json(folder / name))


def evidence_of_bundle(bundle: Verified) -> Evidence:
    """That of a verified bundle."""
    return _evidence(bundle.json)


def _evidence(read: Callable[[str], Document]) -> Evidence:
    return Evidence(
        record=read(RECORD_NAME),
        report=read("report.json"),
        sitting=read("bench/key.json"),
        benchmark=read("bench/output.json").get("result", {}),
        keys={name: read(f"stages/{name}/key.json") for name in ARTEFACT_STAGES},
        outputs={name: read(f"stages/{name}/output.json").get("files", {}) for name in ARTEFACT_STAGES},
    )
