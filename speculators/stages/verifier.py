"""Stage ``verifier``: whatever the recipe names, as one local folder with a canonical id and digest."""

from __future__ import annotations

from typing import Any

from speculators.datagen.verifier import (
    Source,
    eos_token_ids,
    facts,
    from_folder,
    from_hub,
    template_digest,
    tokenizer_digest,
)
from speculators.documents import tree_digest
from speculators.stages.documents import StageInput

MODEL = "model"


def run(step: StageInput) -> dict[str, Any]:
    """Leave ``model/``; the result names it, describes it and fixes its bytes."""
    trusted = bool(step.values["verifier"].get("trust_remote_code", False))
    source = _prepare(step, trusted)
    known = facts(source.folder, trust_remote_code=trusted)
    print(f"verifier {source.id}: {known['architecture']}, {known['num_hidden_layers']} layers", flush=True)
    return {
        "id": source.id,
        "digest": tree_digest(source.folder),
        "facts": known,
        "chat_template_sha256": template_digest(source.folder, trust_remote_code=trusted),
        "tokenizer_sha256": tokenizer_digest(source.folder),
        "eos_token_ids": eos_token_ids(source.folder, trust_remote_code=trusted),
        "trust_remote_code": trusted,
    }


def _prepare(step: StageInput, trusted: bool) -> Source:
    verifier, target = step.values["verifier"], step.output / MODEL
    if paths := step.files.get("verifier.path"):
        return from_folder(paths[0], target, identity=f"local:{paths[0].name}", trust_remote_code=trusted)
    if "repository" in verifier:
        return from_hub(verifier["repository"], verifier.get("revision"), target, trust_remote_code=trusted)
    from speculators.datagen.gguf import from_package

    return from_package(verifier["package"], verifier["file"], target)
