"""Another verifier for a finished draft: its quantised twin, or a fine-tune with the same tokens.

A draft hangs on its verifier by more than a path: by the tokens that its map and head speak, the width
and depth of the states that it reads, the rows that were copied as its embedding and head, and the
rotary embedding that shaped those states.  All of it is compared before one line of the config
changes.  What was trained is never touched: weights are copied to the byte, RoPE and layer ids stay.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from speculators.checkpoint.check import Check, failures, listed
from speculators.checkpoint.config import CONFIG_NAME, compared_format, stored_format
from speculators.checkpoint.config_checks import config_checks, fit_checks, strange_sizes
from speculators.checkpoint.folder import config_of, new_folder, read_object, weights_of
from speculators.checkpoint.format import Format
from speculators.checkpoint.location import WANTED, local_folder
from speculators.checkpoint.model import read_config
from speculators.checkpoint.rope import rope_differences, rope_parameters
from speculators.checkpoint.tensors import shared_ends
from speculators.checkpoint.tokenizer import (
    SMALL_FILES,
    Tokenizer,
    recorded_tokenizer,
    tokenizer_checks,
    tokenizer_of,
)
from speculators.checkpoint.validate import (
    Subject,
    ends,
    file_checks,
    rows_check,
    sizes_by_rows,
    subject_of,
    validate,
)
from speculators.checkpoint.verifier_layout import verifier_text
from speculators.checkpoint.verifier_weights import VerifierWeights, load_verifier_weights
from speculators.checkpoint.weights_file import WEIGHTS_NAME, read_header, write_weights
from speculators.convert.layer_ids import default_layers
from speculators.convert.source_config import TEXTS
from speculators.documents import write_json
from speculators.errors import MachineError, RecipeError, StageError

#: What is taken along beside config and weights.
COMPANIONS = (".json", ".jinja", ".md", ".model", ".txt")

UNCHECKED = "tensors are those of its kind"


class Retargeted(NamedTuple):
    """``verifier`` and ``before``: blocks of the config, as written and as found."""

    verifier: dict[str, Any]
    before: dict[str, Any]
    checks: list[Check]


def retarget(draft: Path, verifier: str, target: Path, trained_for: str | None = None) -> Retargeted:
    """Write into the new folder ``target`` the draft with ``verifier`` in place of its own.

    ``trained_for``: the verifier that it was trained for, by default the one that it names, where
    that is a folder of this machine or can be had from the hub.

    Raises:
        RecipeError: a folder is not what it should be.
        StageError: the draft is damaged, or does not fit; nothing is written.
    """
    document = read_object(draft / CONFIG_NAME)
    known = compared_as(draft, document)
    read_config(draft)
    with config_of(draft):
        notes = soundness(draft, document, known)
        require_sound(draft, notes)
        before = dict(document["speculators_config"]["verifier"])
        subject = subject_of(draft, document, known)
    given = local_folder(verifier, wanted=(*WANTED, *SMALL_FILES))
    original = origin(trained_for, before)
    with config_of(given):
        compared = list(comparisons(subject, given, original))
    checks = [*(check for check in notes if check.name == UNCHECKED), *compared]
    if failed := failures(checks):
        raise StageError(
            f"{draft} does not fit {verifier}: " + listed(failed),
            hint="nothing was written; a draft serves the verifier that it was trained for, its quantised "
            "copies and fine-tunes with the same tokens",
            rule="retarget-refused",
        )
    named = copy.deepcopy(document)
    tokenizer = trained_tokenizer(subject, original)
    named["speculators_config"]["verifier"] = renamed(before, verifier, given, tokenizer)
    tensors, metadata = read_header(weights_of(draft))
    with new_folder(target) as partial:
        for path in sorted(draft.iterdir()):
            if path.is_file() and path.suffix in COMPANIONS and path.name != CONFIG_NAME:
                shutil.copyfile(path, partial / path.name)
        write_weights(partial / WEIGHTS_NAME, tensors, metadata)
        write_json(partial / CONFIG_NAME, named)
    return Retargeted(named["speculators_config"]["verifier"], before, checks)


def compared_as(draft: Path, document: Mapping[str, Any]) -> Format:
    """The format by which the draft hangs on its verifier.

    Raises:
        StageError: it is of no such format, or is served inside its verifier.
    """
    kind = document.get("speculators_model_type")
    known = compared_format(document)
    if known is not None:
        return known
    if kind == "mtp":
        raise StageError(
            f"{draft}: an mtp head names no verifier to an engine: it is served inside of one",
            hint="put it into the other model: speculators convert DIR --stitch --verifier MODEL --to NEW",
            rule="retarget-refused",
        )
    raise StageError(
        f"{draft}: no draft in the speculators format: speculators_model_type is {kind!r}",
        hint="if it is a draft, convert it first: speculators convert SOURCE --to DIR --verifier MODEL",
        rule="retarget-refused",
    )


def soundness(draft: Path, document: Mapping[str, Any], known: Format) -> list[Check]:
    """Every check of the draft itself; of a kind whose tensors no table has, what needs none."""
    if stored_format(document) is known:
        return validate(draft)
    checks = [*file_checks(draft), *config_checks({**document, "speculators_model_type": known.stored_as})]
    if not failures(checks):
        stored = subject_of(draft, document, known).shapes
        missing = sorted(shared_ends(document).required.keys() - stored.keys())
        checks.append(Check("no tensor missing", not missing, ", ".join(missing) or "ends and map are there"))
    detail = f"which tensors a {document['speculators_model_type']} draft has is not known here"
    return [*checks, Check(UNCHECKED, False, f"{detail}; they were copied as they are", "warning")]


def require_sound(draft: Path, checks: list[Check]) -> None:
    """Refuse a draft that is broken already: it would be taken for broken by the change."""
    if failed := failures(checks):
        raise StageError(
            f"{draft}: {listed(failed)}",
            hint="'speculators inspect DIR' explains it, '--fix NEW' mends what is unambiguous",
            rule="draft-invalid",
        )


def origin(named: str | None, block: Mapping[str, Any]) -> Path | None:
    """The folder of the verifier that the draft was trained for, without its weights; None: not at hand.

    Raises:
        RecipeError, MachineError: the user named it, and it cannot be had.
    """
    if named is not None:
        return local_folder(named, wanted=SMALL_FILES)
    first = block.get("trained_for", block)
    try:
        return local_folder(str(first.get("name_or_path")), wanted=SMALL_FILES)
    except (RecipeError, MachineError):
        return None


def comparisons(subject: Subject, verifier: Path, original: Path | None) -> Iterator[Check]:
    """Everything by which a draft hangs on its verifier, asked of the new one."""
    document, config = subject.document, read_object(verifier / CONFIG_NAME)
    text = verifier_text(config)
    if strange := strange_sizes(text):
        yield Check("verifier's config", False, f"says {', '.join(strange)}")
        return
    if "num_hidden_layers" not in text:
        detail = "has no num_hidden_layers, also by no other name: no language model"
        yield Check("verifier's config", False, detail)
        return
    weights: VerifierWeights | None = None
    try:
        weights = load_verifier_weights(verifier)
        text = {**sizes_by_rows(weights), **text}
    except StageError as error:
        yield Check("verifier's ends readable", False, error.message)
    yield from fit_checks(subject.format, document, text)
    yield family_check(document, config)
    before, trained = None, rope_parameters(document["transformer_layer_config"])
    if original is not None:
        with config_of(original):
            before = verifier_text(read_object(original / CONFIG_NAME))
            trained = rope_parameters(before)
    yield depth_check(subject, text, before)
    yield rope_check(trained, text, of_draft=before is None)
    yield from token_checks(subject, verifier, original)
    if (
        weights is not None
        and subject.document["transformer_layer_config"]["vocab_size"] == text["vocab_size"]
    ):
        yield from row_checks(subject, weights)


def family_check(document: Mapping[str, Any], config: Mapping[str, Any]) -> Check:
    """Quantising and fine-tuning keep the architecture."""
    name, said = "verifier family", config.get("architectures") or []
    if not TEXTS.holds(said):
        return Check(name, False, f"architectures is {said!r}, not {TEXTS.said}")
    meant, given = set(document["speculators_config"]["verifier"].get("architectures") or ()), set(said)
    same = not meant or bool(meant & given)
    return Check(name, same, f"{sorted(given)}, made for {sorted(meant) or 'what it does not say'}")


def depth_check(subject: Subject, text: Mapping[str, Any], before: Mapping[str, Any] | None) -> Check:
    """Layer ids mean other states in a model of another depth.

    Without the original at hand its depth shows only where the ids are the default of a depth.
    """
    depth, ids = text["num_hidden_layers"], subject.format.aux_layers(subject.document)
    trained = (before or {}).get("num_hidden_layers")
    if trained is None and ids and ids == default_layers(ids[-1] + 3):
        trained = ids[-1] + 3
    if trained is None:
        return Check("verifier depth", True, f"{depth} layers; nothing says how many it was trained for")
    return Check("verifier depth", trained == depth, f"{depth} layers, trained for {trained}")


def rope_check(trained: Mapping[str, Any], text: Mapping[str, Any], *, of_draft: bool) -> Check:
    """A verifier's RoPE shapes the states; the draft's own may differ from it on purpose."""
    differences = rope_differences(trained, rope_parameters(text))
    of = "the draft's own" if of_draft else "the one that it was trained for"
    detail = f"against {of}: {'; '.join(differences) or 'the same'}"
    return Check("verifier RoPE", not differences, detail, "warning" if of_draft else "error")


def token_checks(subject: Subject, verifier: Path, original: Path | None) -> Iterator[Check]:
    """The tokenizer: by the draft's record, by files beside it, or by its original verifier's."""
    name = "tokenizer is the verifier's"
    if tokenizer_of(verifier) is None:
        yield Check(name, False, f"{verifier} has no tokenizer")
        return
    if trained_tokenizer(subject, original) is None:
        detail = "neither the draft nor a verifier at hand says which tokens it was trained with"
        yield Check(name, False, f"{detail}: --trained-for MODEL names the one that does")
        return
    witness = subject.folder if original is None or tokenizer_of(original) is None else original
    yield from tokenizer_checks(witness, subject.document, verifier)


def trained_tokenizer(subject: Subject, original: Path | None) -> Tokenizer | None:
    """What the draft was trained with; None where nothing says so."""
    own = recorded_tokenizer(subject.document) or tokenizer_of(subject.folder)
    return own or (None if original is None else tokenizer_of(original))


def row_checks(subject: Subject, weights: VerifierWeights) -> Iterator[Check]:
    """Embedding and head rows, selected by the map: near the verifier's, if not equal to them."""
    for end in ends(subject, weights):
        if end.stored.shape == end.rows.shape:  # another width has been said already
            yield rows_check(end, "error")


def renamed(
    before: Mapping[str, Any], verifier: str, folder: Path, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """The config's block for the new verifier, with the one that was trained for kept beside it.

    A digest goes with the files that it was taken of, so it stays with the old name; ``tokenizer`` is
    still the one of the training.
    """
    repository, local = verifier.partition("@")[0], Path(verifier).is_dir()
    return {
        "name_or_path": str(folder.resolve()) if local else repository,
        "architectures": read_object(folder / CONFIG_NAME).get("architectures") or [],
        "id": f"local:{folder.resolve().name}" if local else f"{repository}@{folder.name}",
        **(tokenizer.recorded() if tokenizer else {}),
        "trained_for": dict(before.get("trained_for", before)),
    }
