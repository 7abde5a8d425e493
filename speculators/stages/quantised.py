"""Stage ``quantised``: a quantised copy of the verifier, shown to fit the draft, for arms of its own."""

from __future__ import annotations

from typing import Any

from speculators.checkpoint.check import failures, listed
from speculators.checkpoint.config import CONFIG_NAME, stored_format
from speculators.checkpoint.validate import subject_of
from speculators.convert.retarget import comparisons
from speculators.datagen.verifier import from_brought
from speculators.documents import read_json, tree_digest
from speculators.errors import StageError
from speculators.stages.documents import StageInput


def run(step: StageInput) -> dict[str, Any]:
    """Leave ``model/``, as the stage ``verifier`` does.

    Raises:
        StageError: it differs from the verifier in something that the draft depends on.
    """
    trusted = bool(step.values.get("verifier", {}).get("trust_remote_code", False))
    (named,) = step.files["benchmark.quantised"]
    source = from_brought(named, step.output / "model", trust_remote_code=trusted)
    draft, verifier = step.inputs["package"] / "model", step.inputs["verifier"] / "model"
    document = read_json(draft / CONFIG_NAME)
    known = stored_format(document)
    assert known is not None  # the package stage refuses others
    checks = list(comparisons(subject_of(draft, document, known), source.folder, verifier))
    for check in checks:
        if not check.ok and check.severity == "warning":
            print(f"warning: {check.name}: {check.detail}")
    if failed := failures(checks):
        raise StageError(
            f"{named}: not a copy of the verifier that the draft can serve: {listed(failed)}",
            hint="benchmark.quantised names a quantised copy of the recipe's own verifier",
            rule="retarget-refused",
        )
    method = quantisation(read_json(source.folder / CONFIG_NAME))
    print(f"quantised verifier {source.id}: {method or 'not quantised by its config'}", flush=True)
    return {
        "id": source.id,
        "digest": tree_digest(source.folder),
        "quantisation": method,
        "validation": [check._asdict() for check in checks],
    }


def quantisation(config: dict[str, Any]) -> str | None:
    """The method that a model's ``config.json`` names; None where it says nothing."""
    block = config.get("quantization_config")
    return str(block.get("quant_method") or "unnamed") if isinstance(block, dict) else None
