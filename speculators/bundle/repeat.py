"""A published run again: ``prepare`` before it, ``conclude`` after it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speculators.bundle.contents import FILES, LOCK_NAME, RESOLVED_NAME
from speculators.bundle.evidence import Evidence, evidence_of_bundle, evidence_of_run
from speculators.bundle.fetch import fetched
from speculators.bundle.homes import unfinished_home
from speculators.bundle.judgement import Verdict, judge
from speculators.bundle.trust import require_trust
from speculators.bundle.verify import Verified, verify
from speculators.documents import write_json, write_text
from speculators.errors import RecipeError
from speculators.pipeline.lock import parse, render
from speculators.recipe.overrides import apply_overrides
from speculators.recipe.yaml_loader import load_yaml

PUBLISHED = "published"
REPEAT_NAME = "repeat.json"
STOPPED_BY_LOCK = ("stale-lock", "image-differs")
WAY_ON = (
    "a repeat needs the model, prompts and pulled images of the published run: bring those here, or ask for "
    "others with --set, as in verifier.package, and the verdict will say that they differ"
)


class Repeat(NamedTuple):
    """What a bundle gives for repeating it: the recipe to run, and what its run claims.

    ``home``: where the repeat makes everything, apart from other runs, other repeats and the bundle's files.
    """

    recipe: Path
    published: Evidence
    verified: Verified
    home: Path

    def way_on(self, error: RecipeError) -> str:
        """What helps when inputs are not those of the published run: its lock is not to be renewed."""
        return WAY_ON if error.rule in STOPPED_BY_LOCK else error.hint


def prepare(
    source: str,
    folder: Path,
    overrides: Sequence[str] = (),
    *,
    trusted: bool = False,
    locked: bool = False,
) -> Repeat:
    """Fetch, verify and unpack the bundle ``source`` below ``folder``, in a folder named after its run.

    ``overrides``: the ``--set`` arguments, which must name what the recipe needs and no bundle holds.
    ``trusted``: the recipe may run code and see secrets; ``locked``: images built elsewhere bind as well.

    Raises:
        DamagedBundleError: the bundle is not as it was written; nothing was unpacked.
        RecipeError: there is none, something that it needs is not named, or its recipe wants to be trusted.
        MachineError: it cannot be reached.
    """
    with fetched(source) as file:
        bundle = verify(file)
        recipe = as_it_would_run(bundle, overrides)
        needs = list(bundle.description["needs"])
        require_trust(recipe, overrides, source, needs=needs, trusted=trusted)
        require_needs(bundle, overrides)
        run = bundle.description["run"]
        path = unpack(bundle, below(folder, run), locked=locked)
        return Repeat(path, evidence_of_bundle(bundle), bundle, unfinished_home(folder, run))


def unpack(bundle: Verified, folder: Path, *, locked: bool = False) -> Path:
    """Write the recipe, its lock and its prompt files below ``folder``; the recipe's path.

    The recipe is the resolved one: with its overrides, as it was run.  The rest goes below ``published/``,
    and the lock as it was too.
    """
    description = bundle.description
    recipe = below(folder, f"{description['recipe_folder']}/{description['recipe']['name']}.yaml".lstrip("/"))
    targets = {RESOLVED_NAME: recipe, LOCK_NAME: recipe.with_suffix(".lock.yaml")}
    targets[LOCK_NAME].unlink(missing_ok=True)  # what an earlier repeat wrote there binds no other
    for name in bundle.archive.members:
        target = targets.get(name) or below(folder, f"{PUBLISHED}/{name}")
        if name.startswith(f"{FILES}/"):
            target = below(folder, name.removeprefix(f"{FILES}/"))
            if target in targets.values() or target.is_relative_to(folder / PUBLISHED):
                raise RecipeError(f"{name}: its place is taken by another file", rule="bundle-name")
        bundle.archive.copy(name, target)
    if LOCK_NAME in bundle.archive.members:
        lock = targets[LOCK_NAME]
        if not locked:
            write_text(lock, lock_to_repeat(lock.read_text(encoding="utf-8"), str(lock)))
        bundle.archive.copy(LOCK_NAME, below(folder, f"{PUBLISHED}/{LOCK_NAME}"))
    return recipe


def lock_to_repeat(text: str, file: str) -> str:
    """The lock of a published run as it binds a repeat: without images that no registry has.

    An image that was built there has other contents when it is built here.  That must not stop the
    repeat: its verdict says that the images differ.
    """
    pins = parse(text, file).pins
    images = {path: str(pin) for path, pin in pins.items() if path[0] == "images"}
    references = [pin for path, pin in images.items() if path[2:] == ("reference",)]
    if all("@sha256:" in reference for reference in references):
        return text
    return render({path: pin for path, pin in pins.items() if path not in images})


def as_it_would_run(bundle: Verified, overrides: Sequence[str]) -> dict[str, Any]:
    """The recipe's data, with the ``overrides`` that can be used."""
    document = load_yaml(bundle.archive.read(RESOLVED_NAME).decode(), RESOLVED_NAME)
    data: dict[str, Any] = apply_overrides(document.data, document.positions, tuple(overrides)).data
    return data


def below(root: Path, name: str) -> Path:
    """The place ``name`` below ``root``, wherever links lead: a stranger chose it.

    Raises:
        RecipeError: it is elsewhere, or ``root`` itself.
    """
    target = root / name
    if root.resolve() not in target.resolve().parents:
        raise RecipeError(f"{name!r} leads out of {root}", rule="bundle-name")
    return target


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
