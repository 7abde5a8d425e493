"""Stage ``package``: a trained or ready-made draft becomes ``model/``, exactly what vLLM loads.

Both ways end in the same validator; a checkpoint that fails one check is refused with every failed
check named, because vLLM itself would load and serve it without a word.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from speculators.checkpoint.check import Check, failures, listed
from speculators.checkpoint.config import (
    CONFIG_NAME,
    VerifierName,
    checkpoint_digest,
    completed,
    hub_repository,
    stored_format,
    to_document,
)
from speculators.checkpoint.package import assemble, write_checkpoint
from speculators.checkpoint.shape import from_json
from speculators.checkpoint.tokenizer import tokenizer_of
from speculators.checkpoint.validate import validate
from speculators.checkpoint.verifier_weights import load_verifier_weights
from speculators.checkpoint.weights_file import WEIGHTS_NAME
from speculators.documents import file_digest, read_json, write_json, write_text
from speculators.errors import StageError
from speculators.report.model_card import CardFacts, model_card
from speculators.stages.documents import StageInput
from speculators.training.architectures import ARCHITECTURES, FORMATS
from speculators.training.files import DRAFT_NAME, ENDS_NAME, SHAPE_NAME, VOCABULARY_NAME

CARD_NAME = "README.md"

Tensors = Mapping[str, torch.Tensor]


def run(step: StageInput) -> dict[str, Any]:
    """Write and validate ``model/`` from the training stage's output or from the recipe's ``draft``."""
    verifier_dir, model_dir = step.inputs["verifier"] / "model", step.output / "model"
    model_dir.mkdir()
    result = step.result_of("verifier")
    architecture, tokenizer = result["facts"]["architecture"], tokenizer_of(verifier_dir)
    verifier = VerifierName(result["id"], result["digest"], architecture, tokenizer)
    given, own = step.files.get("draft"), ends_of(step)
    if given:
        document = copy_draft(given[0], model_dir, verifier, result["facts"]["num_hidden_layers"])
    else:
        document = build_draft(step, model_dir, verifier, verifier_dir, own)
    # The verifier is named canonically: the same checkpoint is the same bytes wherever it lies.
    write_json(model_dir / CONFIG_NAME, document)
    checks = validate(model_dir, verifier_dir, own_ends=bool(given or own))
    report(checks, given[0] if given else model_dir)
    tokens = document["speculators_config"]["proposal_methods"][0]["speculative_tokens"]
    write_text(model_dir / CARD_NAME, model_card(card_facts(step, document, verifier)))
    return {
        "speculative_tokens": tokens,
        "algorithm": document["speculators_model_type"],
        "validation": [check._asdict() for check in checks],
        "digest": checkpoint_digest(model_dir),
    }


def build_draft(
    step: StageInput, model_dir: Path, verifier: VerifierName, verifier_dir: Path, own: Tensors
) -> dict[str, Any]:
    """Assemble the trained draft into ``model_dir``; returns its canonical config document.

    ``own``: head and embedding, as far as they are not the verifier's.
    """
    algorithm = step.values["algorithm"]
    trained = load_file(step.inputs["training"] / DRAFT_NAME)
    draft_ids = load_file(step.inputs["training"] / VOCABULARY_NAME)["draft_ids"]
    known = ARCHITECTURES[algorithm["kind"]].format
    config = from_json(known.config, read_json(step.inputs["training"] / SHAPE_NAME))
    document = to_document(config, algorithm["speculative_tokens"], verifier)
    weights = load_verifier_weights(verifier_dir)
    write_checkpoint(model_dir, document, assemble(trained, draft_ids, weights, known.copies, own))
    return document


def ends_of(step: StageInput) -> Tensors:
    """Head and embedding that a trained draft has of its own, by checkpoint name."""
    folder = step.inputs.get("training")
    path = folder / ENDS_NAME if folder else None
    return load_file(path) if path and path.is_file() else {}


def copy_draft(source: Path, model_dir: Path, verifier: VerifierName, layers: int) -> dict[str, Any]:
    """Copy a ready-made checkpoint's weights; returns its config, made explicit and bound to ``verifier``.

    ``layers``: the verifier's decoder layers, of which open aux layers are reckoned.

    Only what vLLM loads is taken along: stray Python files and optimiser states stay behind.  A
    snapshot of the hub cache is a folder of links, hence the copy of what they point at.
    """
    document, notes = bound(read_config(source), verifier, layers)
    weights = sorted(source.glob("*.safetensors"))
    if len(weights) != 1:
        raise StageError(
            f"{source}: {len(weights)} safetensors files, expected one",
            hint="vLLM loads every safetensors file in the folder; keep the model's only",
            rule="draft-invalid",
        )
    if stored_format(document) is None:
        raise StageError(
            f"{source}: its kind is {document.get('speculators_model_type')!r}, which no arm here serves",
            hint=f"served are {', '.join(FORMATS)}; 'speculators inspect DIR' says what the draft is",
            rule="draft-invalid",
        )
    for note in notes:
        print(f"draft: {note}")
    shutil.copyfile(weights[0], model_dir / WEIGHTS_NAME)
    return document


def bound(config: Mapping[str, Any], verifier: VerifierName, layers: int) -> tuple[dict[str, Any], list[str]]:
    """A ready-made config made explicit, naming ``verifier``; and one note for each change."""
    document, notes = completed(config, layers)
    named = document["speculators_config"].setdefault("verifier", {})
    repository = hub_repository(verifier.id) or verifier.id
    if named.get("name_or_path") not in (None, repository, verifier.id):
        notes.append(f"was made for {named['name_or_path']}, is bound here to {verifier.id}")
    named.update(name_or_path=repository, id=verifier.id, digest=verifier.digest)
    return document, notes


def read_config(source: Path) -> dict[str, Any]:
    """The ``config.json`` of a ready-made checkpoint.

    Raises:
        StageError: there is none, it is not JSON, or it is of another format.
    """
    path = source / CONFIG_NAME
    try:
        document = read_json(path)
    except FileNotFoundError:
        hint = "draft: must name a checkpoint folder"
        raise StageError(f"{source}: no {CONFIG_NAME}", hint=hint, rule="draft-invalid") from None
    except ValueError as error:  # of JSON or of its encoding
        hint = "copy or download the checkpoint again"
        raise StageError(f"{path}: not valid JSON: {error}", hint=hint, rule="draft-invalid") from error
    block = document.get("speculators_config") if isinstance(document, dict) else None
    if not isinstance(block, dict) or not isinstance(block.get("verifier", {}), dict):
        raise StageError(
            f"{path}: no speculators_config: not a checkpoint in the speculators format",
            hint="convert it first",
            rule="draft-invalid",
        )
    found: dict[str, Any] = document
    return found


def report(checks: Sequence[Check], place: Path) -> None:
    """Print warnings; refuse the checkpoint if a check failed.

    Raises:
        StageError: naming every failed check.
    """
    for check in checks:
        if not check.ok and check.severity == "warning":
            print(f"warning: {check.name}: {check.detail}")
    failed = failures(checks)
    if failed:
        raise StageError(
            f"{place}: {len(failed)} of {len(checks)} checks failed: {listed(failed)}",
            hint="vLLM would load this checkpoint and draft badly, or not load it; correct it at its source",
            rule="draft-invalid",
        )
    print(f"checkpoint: {len(checks)} checks, none failed")


def card_facts(step: StageInput, document: dict[str, Any], verifier: VerifierName) -> CardFacts:
    """What is known for certain when the checkpoint is packaged."""
    return CardFacts(
        name=step.values["name"],
        verifier_id=verifier.id,
        verifier_digest=verifier.digest,
        verifier_repository=hub_repository(verifier.id),
        algorithm=document["speculators_model_type"],
        speculative_tokens=document["speculators_config"]["proposal_methods"][0]["speculative_tokens"],
        aux_layers=FORMATS[document["speculators_model_type"]].aux_layers(document),
        draft_vocabulary=document["draft_vocab_size"],
        vocabulary=document["transformer_layer_config"]["vocab_size"],
        weights_sha256=file_digest(step.output / "model" / WEIGHTS_NAME),
        training=step.result_of("training") if "training" in step.inputs else None,
    )
