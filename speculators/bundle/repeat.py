"""A published run again: ``prepare`` before it, ``conclude`` after it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from speculators.bundle.contents import FILES, LOCK_NAME, RESOLVED_NAME
from speculators.bundle.evidence import Evidence, evidence_of_bundle, evidence_of_run
from speculators.bundle.fetch import fetched
from speculators.bundle.judgement import Verdict, judge
from speculators.bundle.verify import Verified, verify
from speculators.documents import write_json
from speculators.errors import RecipeError

PUBLISHED = "published"
REPEAT_NAME = "repeat.json"


class Repeat(NamedTuple):
    """What a bundle gives for repeating it: the recipe to run, and what its run claims."""

    recipe: Path
    published: Evidence
    verified: Verified


def prepare(source: str, folder: Path, overrides: Sequence[str] = ()) -> Repeat:
    """Fetch, verify and unpack the bundle ``source`` below ``folder``, in a folder named after its run.

    ``overrides``: the ``--set`` arguments, which must name what the recipe needs and no bundle holds.

    Raises:
        DamagedBundleError: the bundle is not as it was written; nothing was unpacked.
        RecipeError: there is none, or something that it needs is not named.
        MachineError: it cannot be reached.
    """
    with fetched(source) as path:
        bundle = verify(path)
        require_needs(bundle, overrides)
        recipe = unpack(bundle, folder / bundle.description["run"])
        return Repeat(recipe, evidence_of_bundle(bundle), bundle)


def unpack(bundle: Verified, folder: Path) -> Path:
    """Write the recipe, its lock and its prompt files below ``folder``; the recipe's path.

    The recipe is the resolved one: with its overrides, as it was run.  The rest goes below ``published/``.
    """
    description = bundle.description
    recipe: Path = folder / description["recipe_folder"] / f"{description['recipe']['name']}.yaml"
    targets = {RESOLVED_NAME: recipe, LOCK_NAME: recipe.with_suffix(".lock.yaml")}
    for name in bundle.archive.members:
        target = targets.get(name, folder / PUBLISHED / name)
        if name.startswith(f"{FILES}/"):
            target = folder / name.removeprefix(f"{FILES}/")
            if target in targets.values() or target.is_relative_to(folder / PUBLISHED):
                raise RecipeError(f"{name}: its place is taken by another file", rule="bundle-name")
        bundle.archive.copy(name, target)
    return recipe


def require_needs(bundle: Verified, overrides: Sequence[str]) -> None:
    """Stop before a recipe is run that names files which are not here.

    Raises:
        RecipeError: saying what to name.
    """
    given = {override.partition("=")[0].strip() for override in overrides}
    missing = [path for path in bundle.description["needs"] if path not in given]
    if missing:
        raise RecipeError(
            f"the recipe names what no bundle holds: {', '.join(missing)}",
            hint="name it with " + " ".join(f"--set {path}=..." for path in missing),
            rule="bundle-needs",
        )


def conclude(published: Evidence, run: Path) -> Verdict:
    """The verdict on the finished run in folder ``run``, which also gets it as ``repeat.json``."""
    verdict = judge(published, evidence_of_run(run))
    write_json(run / REPEAT_NAME, verdict.document() | {"published": published.record["id"]})
    return verdict
