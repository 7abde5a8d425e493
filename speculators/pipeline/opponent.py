"""What ``run --against`` names and ``--aa`` measures: a stored measurement, or another draft beside ours.

A run's folder, a bundle or a baseline file holds speedups of another sitting.  A checkpoint, another
recipe, or this recipe at a commit of git is served here, in the same rounds: the surest comparison, because
whatever a round has in common is in both arms.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speculators.benchmark.arms import Base, Opponent
from speculators.benchmark.comparison import ENOUGH_ROUNDS, no_baseline
from speculators.benchmark.measurement import Measurement
from speculators.benchmark.rounds import DRAFT
from speculators.bundle.fetch import is_bundle
from speculators.checkpoint.check import Check, failures, listed
from speculators.checkpoint.config import checkpoint_digest, completed, stored_format
from speculators.checkpoint.config_checks import fit_checks, proposal_check
from speculators.checkpoint.tokenizer import tokenizer_checks
from speculators.documents import known_json, read_json
from speculators.errors import RecipeError
from speculators.pipeline.choice import Choice
from speculators.pipeline.plan import plan
from speculators.pipeline.store import Store
from speculators.pipeline.surroundings import given
from speculators.recipe.diagnostics import render_all
from speculators.recipe.facts import find_facts
from speculators.recipe.hub_cache import snapshots
from speculators.recipe.recipe import Recipe, load_recipe
from speculators.recipe.view import free_kind
from speculators.stages.documents import read_output

KINDS = "a run's folder, a bundle, a baseline file, a checkpoint's folder, a recipe or a git ref"
NOT_SOUND = "'speculators inspect DIR' says what is wrong with it"


def named(reference: str, recipe: Recipe, home: Path) -> Opponent:
    """What ``reference`` stands for.

    Raises:
        RecipeError: it is nothing of this kind, was not made yet, is of another verifier, or has too few
            rounds.
        DamagedBundleError: the bundle is not as it was written.
    """
    path = Path(reference)
    if is_draft(path):
        return Opponent(base=checkpoint(path, path.resolve().name, recipe))
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return Opponent(base=of_recipe(path, path.read_text(encoding="utf-8"), path.name, recipe, home))
    if path.exists() or is_bundle(reference):
        return Opponent(stored=baseline(reference, recipe))
    repository, _, revision = reference.rpartition("@")
    if repository and (cached := next(snapshots(repository, revision, os.environ), None)):
        return Opponent(base=checkpoint(cached, reference, recipe))
    text = text_at(reference, recipe.path)
    if text is None:
        raise RecipeError(f"--against {reference}: nothing of that name", hint=f"name {KINDS}", rule="no-run")
    if len(recipe.sources) > 1:
        # Only the recipe's own text is of that commit: with today's parents it would be another recipe.
        raise RecipeError(
            f"--against {reference}: this recipe extends another, whose text at that commit is not read",
            hint="name the other draft's checkpoint folder, or a recipe file",
            rule="no-draft",
        )
    return Opponent(base=of_recipe(recipe.path, text, reference, recipe, home))


def baseline(reference: str, recipe: Recipe) -> Measurement:
    """The stored measurement that ``reference`` names.

    Raises:
        RecipeError: there is none, or its rounds are too few to be gated against.
        DamagedBundleError: the bundle is not as it was written.
    """
    from speculators.report.source import load_source

    stored = load_source(reference).measured
    if reasons := list(no_baseline(stored)):
        raise RecipeError(
            f"--against {reference}: no baseline: {'; '.join(reasons)}",
            hint=f"measure more: speculators run {shlex.quote(str(recipe.path))} --only benchmark "
            f"--set benchmark.rounds={ENOUGH_ROUNDS}",
            rule="no-baseline",
        )
    return stored


def is_draft(path: Path) -> bool:
    """Whether ``path`` is the folder of a draft's checkpoint."""
    return "speculators_model_type" in known_json(path / "config.json")


def checkpoint(folder: Path, name: str, recipe: Recipe) -> Base:
    """The draft in ``folder``, served as the recipe's own.

    Raises:
        RecipeError: it is no draft's checkpoint, or, as far as that is known yet, of another verifier.
    """
    if not is_draft(folder):
        raise RecipeError(
            f"--against {name}: no draft in the speculators format",
            hint="speculators convert SOURCE --to DIR makes one of other layouts",
            rule="no-draft",
        )
    folder = folder.absolute()  # containers see it at the same place
    config = read_json(folder / "config.json")
    known = proposal_check(config.get("speculators_config"))
    if not known.ok:
        raise RecipeError(f"--against {name}: {listed([known])}", hint=NOT_SOUND, rule="no-draft")
    packaged = config["speculators_config"]["proposal_methods"][0]["speculative_tokens"]
    tokens = recipe.data["benchmark"]["speculative_tokens"] or packaged
    base = Base(name, folder, tokens, recipe.data["engine"], checkpoint_digest(folder))
    facts = find_facts(recipe.data["verifier"], recipe.path.absolute().parent, os.environ)
    if facts is not None:
        require_fit(base, facts._asdict())
    return base


def require_fit(base: Base, text: Mapping[str, Any]) -> None:
    """Refuse a draft of another verifier before anything is served with it.

    ``text``: what a config says of this verifier's decoder.

    Raises:
        RecipeError: depth, width or vocabulary differ, or the draft's config does not say them.
    """
    document = read_json(base.draft / "config.json")
    known = stored_format(document)
    if known is None:  # vLLM may know methods that are not trained here; what it needs it asks for itself
        return
    document, _ = completed(document, text["num_hidden_layers"])
    try:
        checks = list(fit_checks(known, document, text))
    except (LookupError, TypeError, AttributeError) as error:
        raise RecipeError(
            f"--against {base.name}: not the config of a draft ({type(error).__name__}: {error})",
            hint=NOT_SOUND,
            rule="no-draft",
        ) from error
    _refuse(base, failures(checks))


def require_same_tokens(base: Base, verifier: Path) -> None:
    """Refuse a draft that was trained with other tokens than those of the verifier in the folder.

    Raises:
        RecipeError: saying which differ.
    """
    document = read_json(base.draft / "config.json")
    _refuse(base, failures(list(tokenizer_checks(base.draft, document, verifier))))


def _refuse(base: Base, failed: Sequence[Check]) -> None:
    if failed:
        raise RecipeError(
            f"--against {base.name}: a draft of another verifier: {listed(failed)}",
            hint="speedups can only be compared on the same work",
            rule="not-comparable",
        )


def itself(package: Path, tokens: int, engine: Mapping[str, Any]) -> Base:
    """The draft of this run once more."""
    model = package / "model"
    return Base(f"{DRAFT} itself", model, tokens, engine, read_output(package)["result"]["digest"])


def of_recipe(path: Path, text: str, name: str, recipe: Recipe, home: Path) -> Base:
    """The finished draft of another recipe, served as that recipe says.

    Raises:
        RecipeError: the recipe is wrong or of another verifier, or its draft was not made here.
    """
    loaded = load_recipe(path, text=text)
    if loaded.recipe is None:
        raise RecipeError(f"--against {name}:\n{render_all(loaded.diagnostics)}", rule="invalid-recipe")
    other = loaded.recipe
    if free_kind(other.data):
        raise RecipeError(
            f"--against {name}: its kind '{free_kind(other.data)}' has no draft",
            hint="benchmark.extra_arms measures it in the same rounds",
            rule="no-draft",
        )
    if "docker" in (recipe.data["executor"], other.data["executor"]):
        raise RecipeError(
            f"--against {name}: a draft that was made in containers is not found by its recipe",
            hint="name its checkpoint's folder: runs/NAME/latest/model",
            rule="no-draft",
        )
    if (ours := recipe.files().get("verifier.path")) != (theirs := other.files().get("verifier.path")):
        raise RecipeError(
            f"--against {name}: its verifier is {theirs}, here {ours}",
            hint="speedups can only be compared on the same work",
            rule="not-comparable",
        )
    if other.data["verifier"] != recipe.data["verifier"]:
        raise RecipeError(
            f"--against {name}: its verifier is {other.data['verifier']}, here {recipe.data['verifier']}",
            hint="speedups can only be compared on the same work",
            rule="not-comparable",
        )
    planned = {one.name: one for one in plan(other, Store(home), Choice(), given(other, os.environ))}
    package = planned["package"].output
    if package is None:
        why = "; ".join(reason.text for reason in planned["package"].reasons[:2])
        raise RecipeError(
            f"--against {name}: its draft is not in the store ({why})",
            hint="make it first: speculators run RECIPE, with that recipe; or name its checkpoint's folder",
            rule="no-draft",
        )
    result = read_output(package)["result"]
    tokens = other.data["benchmark"]["speculative_tokens"] or result["speculative_tokens"]
    return Base(name, package / "model", tokens, other.data["engine"], result["digest"])


def text_at(reference: str, recipe: Path) -> str | None:
    """The recipe's text at a commit, branch or tag of the repository it lies in; None if there is none."""
    command = ["git", "show", f"{reference}:./{recipe.name}"]
    try:
        shown = subprocess.run(
            command, cwd=recipe.absolute().parent, capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return shown.stdout
