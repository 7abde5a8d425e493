"""The recipe's own files: their bytes and their places."""

from __future__ import annotations

from typing import Any

from speculators.bundle.contents import FILES, RESOLVED_NAME, place_files
from speculators.bundle.create import BUNDLE_NAME
from speculators.bundle.verification.documents import Bundle
from speculators.recipe.yaml_loader import load_yaml


def check(bundle: Bundle) -> str:
    """The prompt files against the key of the stage that read them."""
    description, count = bundle.description(), 0
    check_places(bundle, description)
    sealed = (
        bundle.object("stages/prompts/key.json")["files"] if bundle.has("stages/prompts/key.json") else {}
    )
    for path, names in description["files"].items():
        digests = sealed.get(path, [])
        if len(digests) != len(names):
            bundle.fault("stages/prompts/key.json", f"{len(digests)} files for {path}, not {len(names)}")
        for name, digest in zip(names, digests):
            count += 1
            if not bundle.has(name):
                bundle.fault(name, "it is missing")
            elif bundle.digest(name) != digest:
                bundle.fault(name, f"not the file that the run used for {path}")
    bundle.open += [f"{path}: named by the recipe, not in the bundle" for path in description["needs"]]
    return f"prompts: {count} files against the key of stage 'prompts'"


def check_places(bundle: Bundle, description: dict[str, Any]) -> None:
    """Below ``files/``, which is unpacked, are the recipe's own files at their places and no others."""
    places = place_files(load_yaml(bundle.text(RESOLVED_NAME), RESOLVED_NAME).data)
    if (description["recipe_folder"], description["files"]) != places:
        bundle.fault(BUNDLE_NAME, f"other prompt files than {RESOLVED_NAME} names")
    named = {name for names in places.names.values() for name in names}
    for name in bundle.archive.members:
        if name.startswith(f"{FILES}/") and name not in named:
            bundle.fault(name, "no file that the recipe names")
