"""One conversion from end to end: open, plan, write aside, check, prove, and only then appear."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from speculators.checkpoint.check import Check, failures, listed
from speculators.checkpoint.config import CONFIG_NAME, stored_format
from speculators.checkpoint.config_checks import fit_checks
from speculators.checkpoint.folder import new_folder, read_object
from speculators.checkpoint.location import local_folder
from speculators.checkpoint.validate import Watch, validate
from speculators.checkpoint.verifier_layout import verifier_text
from speculators.checkpoint.weights_file import WEIGHTS_NAME, write_weights
from speculators.convert.kinds import Kind, detect
from speculators.convert.plan import Options, Plan
from speculators.convert.proof import Proof, prove
from speculators.convert.source import open_source
from speculators.convert.source_config import require_verifier
from speculators.documents import write_json
from speculators.errors import RecipeError, StageError


@dataclass(frozen=True)
class Request:
    """What a user asks of ``convert``."""

    source: str
    verifier: str | None = None
    kind: str | None = None
    aux_layers: tuple[int, ...] | None = None
    flags: Mapping[str, bool] = field(default_factory=dict)
    speculative_tokens: int | None = None
    kinds: Collection[str] | None = None  # layouts that are accepted; None: all


#: What a request may leave out -> how it is asked for.
OPTIONS = {"aux_layers": "--aux-layers", "flags": "--norm", "speculative_tokens": "--tokens"}


class Conversion(NamedTuple):
    """What was done, and what became of everything."""

    kind: str
    label: str
    by: str
    plan: Plan
    checks: list[Check]
    proof: Proof | None


def convert(request: Request, target: Path, *, checked: bool = True) -> Conversion:
    """Convert into ``target``, which appears whole or not at all.

    ``checked``: also validate and prove; a conversion that fails either leaves nothing.

    Raises:
        RecipeError: source, kind, verifier or target are not what they should be.
        StageError: the source is damaged or cannot be converted without loss or a guess.
    """
    source = open_source(request.source)
    kind, by = detect(source, request.kind)
    require_meaning(request, kind)
    asked = options_of(request, source.config if kind.name == "mtp" else None)
    plan = kind.plan(source, asked)
    checks: list[Check] = []
    proof = None
    with new_folder(target) as partial:
        with Watch() as watch:  # no record of a training (``trained_as``): what was read here is none
            write_weights(partial / WEIGHTS_NAME, plan.pieces, seen=watch if checked else None)
        write_json(partial / CONFIG_NAME, plan.document)
        if checked:
            checks = sound(partial, request, asked, watch.broken)
            proof = prove(plan.document["speculators_model_type"], source, partial, asked)
    return Conversion(kind.name, kind.label, by, plan, checks, proof)


def require_meaning(request: Request, kind: Kind) -> None:
    """Refuse a layout that was not asked for, and an option that would change nothing.

    Raises:
        RecipeError: there is one.
    """
    if request.kinds is not None and kind.name not in request.kinds:
        raise RecipeError(
            f"{request.source}: {kind.label} ({kind.name}), not one of {', '.join(sorted(request.kinds))}",
            hint="'speculators convert' and speculators.convert.run.convert take every layout",
            rule="usage",
        )
    asked = [option for name, option in OPTIONS.items() if getattr(request, name) and name not in kind.takes]
    if asked:
        raise RecipeError(
            f"{', '.join(asked)}: says nothing to {kind.label} ({kind.name})",
            hint=f"leave it out; what it takes: {', '.join(OPTIONS[name] for name in sorted(kind.takes))}",
            rule="usage",
        )


def options_of(request: Request, own_config: Mapping[str, Any] | None) -> Options:
    """What is known of the verifier; a native head's verifier is its source.

    Raises:
        RecipeError: no verifier is named, and engines could not load the draft without.
        StageError: its config does not say what a draft is fitted to.
    """
    name = request.verifier or (request.source if own_config is not None else None)
    if name is None:
        raise RecipeError(
            "no verifier is named, and no engine loads a draft without",
            hint="--verifier FOLDER or owner/name: the model that the draft was trained for",
            rule="no-verifier",
        )
    folder = local_folder(name, wanted=(CONFIG_NAME,))
    config = read_object(folder / CONFIG_NAME)
    require_verifier(config, str(folder / CONFIG_NAME))
    written = str(folder.resolve()) if Path(name).is_dir() else name.partition("@")[0]
    return Options(written, config, request.aux_layers, request.flags, request.speculative_tokens)


def sound(folder: Path, request: Request, asked: Options, broken: Collection[str]) -> list[Check]:
    """The validator's answers, also as to the verifier's config; kinds that it does not know have none.

    ``broken``: tensors that were seen to hold values that are not finite.

    Raises:
        StageError: a check failed.
    """
    document = read_object(folder / CONFIG_NAME)
    known = stored_format(document)
    if known is None:
        return []
    checks = validate(folder, broken=broken)
    if not failures(checks):
        checks += fit_checks(known, document, verifier_text(asked.verifier_config))
    if failed := failures(checks):
        raise StageError(
            f"{request.source}: the conversion fails {len(failed)} checks: {listed(failed)}",
            hint="nothing was written; the source is damaged, of another layout (--from KIND) or of another "
            "verifier (--verifier)",
            rule="draft-invalid",
        )
    return checks
