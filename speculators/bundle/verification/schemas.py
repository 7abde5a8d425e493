"""Every document against the schema that is published for it."""

from __future__ import annotations

from speculators.bundle.contents import LOCK_NAME, RESOLVED_NAME
from speculators.bundle.schemas import published_schema, schema_fault
from speculators.bundle.verification.documents import MEASURED, Bundle
from speculators.pipeline.record import RECORD_NAME
from speculators.recipe.diagnostics import has_errors
from speculators.recipe.validation import validate
from speculators.recipe.yaml_loader import load_yaml

REQUIRED = (RECORD_NAME, RESOLVED_NAME, "recipe.yaml", "report.json", MEASURED)


def check(bundle: Bundle) -> str:
    """Every document against the schema that is published for it."""
    for name in REQUIRED:
        if not bundle.has(name):
            bundle.fault(name, "it is missing")
    bundle.require()
    documents = {RECORD_NAME: "run"} | dict.fromkeys(bundle.sealed_outputs(), "stage-output")
    for name, schema in documents.items():
        if fault := schema_fault(bundle.object(name), schema):
            bundle.fault(name, fault)
    recipe = load_yaml(bundle.text(RESOLVED_NAME), RESOLVED_NAME)
    found = [*recipe.diagnostics, *validate(recipe.data, recipe.positions, recipe.spoiled).diagnostics]
    if has_errors(found):
        bundle.fault(RESOLVED_NAME, f"{found[0].message} (line {found[0].line})")
    if isinstance(recipe.data, dict) and "extends" in recipe.data:
        bundle.fault(RESOLVED_NAME, "it extends another file, but a resolved recipe stands for itself")
    checked = len(documents) + 2
    if bundle.has(LOCK_NAME):
        checked += check_lock_schema(bundle)
    return f"schemas: {checked} documents"


def check_lock_schema(bundle: Bundle) -> int:
    if published_schema("lock") is None:
        bundle.open.append(f"{LOCK_NAME}: this version knows no schema of locks")
        return 0
    lock = load_yaml(bundle.text(LOCK_NAME), LOCK_NAME)
    if has_errors(lock.diagnostics):
        bundle.fault(LOCK_NAME, lock.diagnostics[0].message)
    elif fault := schema_fault(lock.data, "lock"):
        bundle.fault(LOCK_NAME, fault)
    return 1
