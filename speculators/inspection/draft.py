"""``inspect`` on a draft: every static check, as findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speculators.checkpoint.check import Check, failures
from speculators.checkpoint.config import CONFIG_NAME, completed
from speculators.checkpoint.config_checks import config_checks
from speculators.checkpoint.dequantise import quantised_names
from speculators.checkpoint.folder import read_object, weights_of
from speculators.checkpoint.rope import rope_parameters
from speculators.checkpoint.trained_as import DIGESTS
from speculators.checkpoint.validate import content_checks, file_checks
from speculators.checkpoint.verifier_layout import output_rule, verifier_text
from speculators.checkpoint.weights_file import Stored, read_header
from speculators.convert.source_config import require_verifier, strange, strange_values
from speculators.errors import StageError
from speculators.inspection.findings import Finding, finding
from speculators.inspection.foreign import read_foreign
from speculators.inspection.serve_command import ServeCommand, command_checks
from speculators.inspection.static_checks import (
    HOLDS_OFFSETS,
    ends_together,
    layer_config_checks,
    own_checks,
    unrecorded,
    verifier_config_checks,
)

#: Any of them makes a config one of the speculators format, for engines too.
FORMAT_KEYS = {"speculators_config", "speculators_model_type"}
#: How a check trips over a config that it does not expect.
UNEXPECTED = (KeyError, TypeError, AttributeError, ValueError, IndexError, RecursionError)
#: What fails only because of what a more particular check names.
CONSEQUENCES = {
    HOLDS_OFFSETS: (
        "t2d agrees", "d2t in range", "d2t ascends", "d2t fits the head", "lm_head.weight is the verifier's",
    ),
}  # fmt: skip
#: Where nothing says how deep the verifier is, the ids that it would settle are not looked at either.
STAND_IN_DEPTH = 12


class Inspection(NamedTuple):
    """``findings``: the most particular first; ``passed``: names of the checks that found nothing.

    ``unseen``: mistakes that no check of these files can see, and a probe can.
    """

    findings: list[Finding]
    passed: list[str]
    unseen: Sequence[str]

    @property
    def defects(self) -> list[Finding]:
        return [one for one in self.findings if one.is_defect]


def inspect_draft(
    folder: Path, verifier_dir: Path | None = None, command: ServeCommand | None = None
) -> Inspection:
    """Look at the draft in ``folder``, against its verifier if that is at hand; nothing is changed.

    ``command``: what serves it.  A folder that cannot be read is a finding, not an error.

    Raises:
        StageError: the verifier's config cannot be read.
    """
    if verifier_dir is not None:
        require_model(verifier_dir)
    checks, unseen = _checked(folder, verifier_dir)
    if command is not None and all(check.ok for check in checks if check.name == "config readable"):
        checks += _guarded(lambda: list(command_checks(command, folder, read_object(folder / CONFIG_NAME))))
    failed = [check for check in checks if not check.ok]
    return Inspection(_findings(failed), [check.name for check in checks if check.ok], unseen)


def require_model(folder: Path) -> None:
    """Refuse a verifier that nothing can be compared with, before its faults are taken for the draft's.

    Raises:
        StageError: it has no config, or one that does not say what a draft is compared by.
    """
    config, place = read_object(folder / CONFIG_NAME), str(folder / CONFIG_NAME)
    require_verifier(config, place)
    try:
        rope_parameters(verifier_text(config))
        output_rule(verifier_text(config), centred=False)
    except UNEXPECTED as error:
        raise strange(place, [f"RoPE, norm or logits in a way that cannot be read ({error})"]) from error


class Looked(NamedTuple):
    """``unseen``: as of ``Inspection``."""

    checks: list[Check]
    unseen: Sequence[str] = ()


def _checked(folder: Path, verifier_dir: Path | None) -> Looked:
    """Every check that the files allow, in the layout that they are in."""
    try:
        document = read_object(folder / CONFIG_NAME)
    except StageError:  # the file checks say what is wrong with it
        return Looked(list(file_checks(folder)))
    if not FORMAT_KEYS & document.keys():
        return _foreign(folder, verifier_dir)
    checks = list(file_checks(folder))
    try:
        tensors, metadata = read_header(weights_of(folder))
    except StageError:
        return Looked(checks)
    checks += _guarded(lambda: list(own_checks(document, tensors, metadata)))
    depth = None
    if verifier_dir is not None:
        checks += _guarded(lambda: list(verifier_config_checks(document, verifier_dir, metadata)))
        depth = verifier_text(read_object(verifier_dir / CONFIG_NAME)).get("num_hidden_layers")
    checks += _guarded(lambda: _content(folder, document, tensors, metadata, verifier_dir, depth))
    return Looked([_by_key(check, document) for check in checks], unrecorded(document, metadata, tensors))


def _content(
    folder: Path,
    document: dict[str, Any],
    tensors: Mapping[str, Stored],
    metadata: Mapping[str, str],
    verifier_dir: Path | None,
    depth: int | None,
) -> list[Check]:
    """The validator's checks of what vLLM will take the config to be, open flags and layers filled in."""
    full, _ = completed(document, depth or STAND_IN_DEPTH)
    found = _compared(folder, full, tensors, verifier_dir)
    # ``open_flag_checks`` speaks of the document itself.
    found = [check for check in found if check.name != "flags explicit"]
    if verifier_dir is not None:
        found = ends_together(found, tensors, verifier_dir, full, recorded=DIGESTS in metadata)
    return found


def _compared(
    folder: Path,
    document: Mapping[str, Any],
    pieces: Mapping[str, Any],
    verifier_dir: Path | None,
    severity: str = "error",
) -> list[Check]:
    """The validator's checks; of a quantised draft those of its config: what it stores are other numbers."""
    packed = quantised_names(pieces)
    if not packed:
        return content_checks(folder, document, pieces, verifier_dir, severity)
    detail = f"{packed[0]} and {len(packed) - 1} more" if packed[1:] else packed[0]
    return [*config_checks(document), Check("tensors are plain", False, detail, "warning")]


def _foreign(folder: Path, verifier_dir: Path | None) -> Looked:
    """A draft in another trainer's layout; its ends may be trained, as these trainers do."""
    try:
        foreign = read_foreign(folder, verifier_dir)
    except UNEXPECTED as error:
        return Looked([_unreadable(error)])
    if foreign.plan is None:
        return Looked(foreign.checks)
    document, pieces = foreign.plan.document, foreign.plan.pieces
    checks = _guarded(lambda: _compared(folder, document, pieces, verifier_dir, "warning"))
    if verifier_dir is not None:
        checks += _guarded(lambda: list(layer_config_checks(document, verifier_dir)))
    return Looked(foreign.checks + checks, unrecorded(document, {}, pieces))


def _guarded(run: Callable[[], list[Check]]) -> list[Check]:
    """A stranger's config may hold anything; what a check trips over is a defect of the config."""
    try:
        return run()
    except UNEXPECTED as error:
        return [_unreadable(error)]


def _by_key(check: Check, document: Mapping[str, Any]) -> Check:
    """What a check tripped over by its key, where that says what it cannot mean."""
    if check.ok or check.name != "config readable":
        return check
    layer = document.get("transformer_layer_config")
    faults = [*strange_values("", document)]
    faults += strange_values("transformer_layer_config.", layer) if isinstance(layer, Mapping) else []
    return check._replace(detail=f"{CONFIG_NAME} says {'; '.join(faults)}") if faults else check


def _unreadable(error: Exception) -> Check:
    return Check("config readable", False, f"{CONFIG_NAME}: {type(error).__name__}: {error}")


def _findings(failed: Iterable[Check]) -> list[Finding]:
    """One finding a name, what names a cause before what only shows a symptom, and no mere consequence."""
    known: dict[str, Finding] = {}
    failed = list(failed)
    consequences = {name for check in failures(failed) for name in CONSEQUENCES.get(check.name, ())}
    named = (check for check in failed if check.name not in consequences)
    for check in sorted(named, key=lambda check: check.severity != "error"):
        one = finding(check.name, check.detail, severity=check.severity)
        known.setdefault(check.name, one)
    return sorted(known.values(), key=lambda one: not one.is_defect)
