"""The run's record against the recipe, the keys, the sealed outputs and the lock."""

from __future__ import annotations

from typing import Any

from speculators.bundle.contents import LOCK_NAME, RESOLVED_NAME
from speculators.bundle.create import BUNDLE_NAME
from speculators.bundle.verification.documents import Bundle
from speculators.documents import value_digest
from speculators.pipeline.record import RECORD_NAME
from speculators.recipe.yaml_loader import load_yaml


def check(bundle: Bundle) -> str:
    """The record against the recipe, the keys and the sealed outputs."""
    record, description = bundle.object(RECORD_NAME), bundle.description()
    if record["status"] != "ok":
        bundle.fault(RECORD_NAME, f"the run is '{record['status']}', not finished")
    told = {"run": record["id"], "recipe": record["recipe"], "tool": record["tool"]}
    for name in ("sha256", "name"):
        if description["recipe"][name] != told["recipe"][name]:
            bundle.fault(BUNDLE_NAME, f"another recipe than in {RECORD_NAME}")
    if (description["run"], description["tool"]) != (told["run"], told["tool"]):
        bundle.fault(BUNDLE_NAME, f"another run than in {RECORD_NAME}")
    check_recipe_digest(bundle, record)
    for stage in record["stages"]:
        check_stage(bundle, stage, bundle.rewritten())
    check_lock_digest(bundle, record)
    return f"record: recipe, {sum('key' in stage for stage in record['stages'])} keys and sealed outputs"


def check_recipe_digest(bundle: Bundle, record: dict[str, Any]) -> None:
    """The resolved recipe against the digest in the record."""
    if RESOLVED_NAME in bundle.rewritten():
        bundle.open.append(f"{RESOLVED_NAME}: the recipe's digest, since paths in it were shortened")
        return
    # Without the defaults of this version: it may know keys that the run's did not.
    data = load_yaml(bundle.text(RESOLVED_NAME), RESOLVED_NAME).data
    if value_digest(data) != record["recipe"]["sha256"]:
        bundle.fault(RESOLVED_NAME, f"not the recipe that {RECORD_NAME} names")


def check_lock_digest(bundle: Bundle, record: dict[str, Any]) -> None:
    """The lock against the digest in the record."""
    sealed = record.get("lock", {}).get("sha256")
    if sealed and not bundle.has(LOCK_NAME):
        bundle.fault(LOCK_NAME, "it is missing")
    elif sealed and sealed not in (bundle.digest(LOCK_NAME), bundle.rewritten().get(LOCK_NAME)):
        bundle.fault(LOCK_NAME, f"not the lock that {RECORD_NAME} names")
    elif not sealed:
        bundle.open.append("lock: the run has none, so models and packages are named by its keys only")


def check_stage(bundle: Bundle, stage: dict[str, Any], was: dict[str, str]) -> None:
    """A stage of the record against its key and its sealed output."""
    key, output = (f"stages/{stage['name']}/{name}.json" for name in ("key", "output"))
    # An accepted output stands for a key that is not its own.
    if "key" in stage and bundle.has(key) and stage["action"] != "accepted":
        if key in was:
            bundle.open.append(f"{key}: the key's digest, since paths in it were shortened")
        elif value_digest(bundle.object(key)) != stage["key"]:
            bundle.fault(key, f"not the key that {RECORD_NAME} names")
    if bundle.has(output) and stage.get("result") != bundle.object(output)["result"]:
        bundle.fault(output, f"another result than in {RECORD_NAME}")
