"""The checkpoint of a run as the package stage sealed it: its verifier named as anywhere, not as here.

A run's ``model/`` names the verifier by a folder of this machine, so that it can be served as it is.
Writing the canonical name back gives the very bytes that were sealed; their digest says so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from speculators.bundle.archive import Content
from speculators.checkpoint.config import CONFIG_NAME, canonical
from speculators.documents import file_digest, known_json
from speculators.errors import RecipeError
from speculators.stages.documents import OUTPUT_NAME

MODEL = "model"


def model_files(run: Path) -> dict[str, dict[str, Any]]:
    """The files of the checkpoint, as the package stage sealed them: ``model/<name>`` -> digest and size."""
    sealed = known_json(run / "stages" / "package" / OUTPUT_NAME).get("files", {})
    return {name: dict(entry) for name, entry in sealed.items() if name.startswith(f"{MODEL}/")}


def canonical_model(run: Path) -> dict[str, Content]:
    """The checkpoint's files with the verifier named canonically, compared with what was sealed.

    Raises:
        RecipeError: one is missing or has other bytes.
    """
    files = model_files(run)
    if not files:
        raise RecipeError(f"{run}: the run says nothing of a checkpoint", rule="model-changed")
    found: dict[str, Content] = {}
    for name, sealed in files.items():
        path = run / name
        if not path.is_file():
            raise RecipeError(f"{path}: not there any more", hint=REMEDY, rule="model-changed")
        content: Content = canonical_config(path) if path.name == CONFIG_NAME else path
        digest = content_digest(content)
        if digest != sealed["sha256"]:
            raise RecipeError(f"{path}: not as the package stage wrote it", hint=REMEDY, rule="model-changed")
        found[name] = content
    return found


REMEDY = "the same 'speculators run' command with --only benchmark puts the checkpoint into a new run"


def canonical_config(path: Path) -> bytes:
    """``config.json`` with the canonical name of its verifier; as it is when it has none."""
    document = canonical(known_json(path))
    return (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def content_digest(content: Content) -> str:
    """SHA-256 (hex) of a member's bytes."""
    import hashlib

    return file_digest(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
