"""The lock beside a recipe: read, checked, renewed, and what a run may do about it."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from speculators.documents import write_text
from speculators.errors import MACHINE_ERRNOS, MachineError, RecipeError
from speculators.pipeline.lock import (
    NAME,
    RECIPE_DIGEST,
    InvalidLockError,
    Lock,
    Pin,
    Pins,
    parse,
    render,
    within,
)
from speculators.pipeline.lock_changes import (
    IMAGE,
    INPUTS,
    Difference,
    blocks_of,
    compare,
    is_new,
    renewed,
    update_paths,
    updated,
)
from speculators.recipe.diagnostics import Diagnostic, diagnostic
from speculators.recipe.positions import ARGUMENT_PREFIX, Mark, dotted, split_path
from speculators.recipe.positions import Path as PinPath
from speculators.recipe.recipe import Recipe

ENDING = ".lock.yaml"
#: Differences of one kind that a note names.
SHOWN = 4

#: The recipe values that choose the inputs below a pin: who sets one of them on the command line asks
#: for another input, and is not surprised by one.
CHOSEN_BY: dict[PinPath, tuple[str, ...]] = {
    ("models", "verifier"): tuple(
        f"verifier.{name}" for name in ("path", "repository", "revision", "package", "file")
    ),
    ("models", "draft"): ("draft",),
    ("models", "init_from"): ("training.init_from",),
    ("models", "quantised"): ("benchmark.quantised",),
    ("prompts", "train"): ("datagen.prompts.files", "datagen.prepared"),
    ("prompts", "benchmark"): ("benchmark.prompts",),
    ("images",): ("container.images",),
    NAME: ("name",),
}


class LockState(NamedTuple):
    """How a run stands to its lock.  ``text`` is the run's own lock, which goes into its folder.

    ``notes``: what the user should know of; ``written``: whether the file beside the recipe was.
    """

    text: str
    notes: tuple[str, ...] = ()
    written: bool = False

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of ``text``."""
        return hashlib.sha256(self.text.encode()).hexdigest()


class Renewal(NamedTuple):
    """What ``renew`` did: the pins that changed, those that are stale still, how many there are."""

    changed: list[Difference]
    stale: list[Difference]
    pins: int
    written: bool
    notes: tuple[str, ...] = ()


def lock_path(recipe: Path) -> Path:
    """The lock's place: beside the recipe, with its name."""
    return recipe.with_name(recipe.stem + ENDING)


def read_lock(path: Path, recipe: Recipe) -> Lock | None:
    """The recipe's lock; None when there is none.

    Raises:
        RecipeError: it is no lock, of another version, or another recipe's.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{path}: a lock is UTF-8 text ({error.reason} at byte {error.start})",
            hint=f"write it anew with: {command(recipe)}",
            rule="invalid-lock",
        ) from error
    lock = parse(text, str(path))
    if lock.pins[NAME] != recipe.name and not _is_overridden(recipe, NAME):
        mark = lock.positions.value(NAME)
        raise RecipeError(
            f"{mark.file}:{mark.line}:{mark.col}: this is the lock of recipe '{lock.pins[NAME]}', "
            f"not of '{recipe.name}'",
            hint=f"write this recipe's own with: {command(recipe)}",
            rule="foreign-lock",
        )
    return lock


def lock_diagnostics(path: Path) -> tuple[Diagnostic, ...]:
    """What is wrong with the form of the lock in ``path``."""
    try:
        parse(path.read_text(encoding="utf-8"), str(path))
    except InvalidLockError as error:
        return error.diagnostics
    except (OSError, UnicodeDecodeError) as error:
        message = f"cannot read the lock: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}"
        return (diagnostic("error", "unreadable", message, Mark(str(path))),)
    return ()


def check(recipe: Recipe, path: Path, pins: Pins) -> list[Difference]:
    """The stale pins of the lock in ``path``; ``--set`` makes no pin of the recipe stale.

    Raises:
        RecipeError: there is no lock, or none that can be read.
    """
    lock = read_lock(path, recipe)
    if lock is None:
        raise RecipeError(f"{path} is not there", hint=f"write it with: {command(recipe)}", rule="no-lock")
    return [one for one in compare(lock, pins) if not _is_overriding(one, recipe)]


def renew(recipe: Recipe, path: Path, pins: Pins, only: Sequence[str] = ()) -> Renewal:
    """Write the lock anew, or with ``only`` just the pins at or below those dotted paths.

    Raises:
        RecipeError: ``only`` names no pin, or there is no lock to update.
        MachineError: what is to be pinned is not on this machine.
    """
    lock, notes = _old_lock(recipe, path, strict=bool(only))
    if only and lock is None:
        hint = f"write it with: {command(recipe)}"
        raise RecipeError(f"{path} is not there: nothing to update", hint=hint, rule="no-lock")
    everything: set[PinPath] = {()}
    _require_seen(pins, blocks_of(only, {*lock.pins, *pins.values}) if only and lock else everything)
    wanted = updated(lock, pins, only) if only and lock else renewed(lock, pins)
    text = render(wanted)
    written = not path.is_file() or path.read_bytes() != text.encode()
    changed = compare(lock, Pins(wanted)) if lock else []
    if written:
        write_text(path, text)
    return Renewal(changed, compare(parse(text, str(path)), pins), len(wanted), written, notes)


def _old_lock(recipe: Recipe, path: Path, *, strict: bool) -> tuple[Lock | None, tuple[str, ...]]:
    """The lock that is about to be replaced; one that cannot be read only matters to ``strict``."""
    try:
        return read_lock(path, recipe), ()
    except RecipeError as error:
        if strict:
            raise
        return None, (f"replaced: {error.message.splitlines()[0]}",)


def _require_seen(pins: Pins, blocks: set[PinPath]) -> None:
    lacking = [
        unseen
        for path, unseen in pins.unseen.items()
        if unseen.mend and (within(path, blocks) or any(within(block, (path,)) for block in blocks))
    ]
    if lacking:
        raise MachineError(
            "; ".join(unseen.reason for unseen in lacking),
            hint="; ".join(unseen.mend for unseen in lacking),
            rule="not-here",
        )


def enforce(
    recipe: Recipe, path: Path, pins: Pins, *, locked: bool, images_chosen: bool = False
) -> LockState:
    """What the lock in ``path`` means for a run of ``recipe`` with the inputs ``pins``.

    An absent lock is written, a block that it says nothing of yet is added.  An image, a model, a
    tokenizer or prompts other than locked stop the run, unless the command line chose them; another
    package, tool or recipe is a note.  ``locked``: nothing is written, and whatever differs stops the
    run, but for the recipe's digest under ``--set``.  ``images_chosen``: by ``--image``.

    Raises:
        RecipeError: the run must not start; the message has a line for every stale pin.
    """
    text = render(pins.values)
    lock = read_lock(path, recipe)
    if lock is None:
        if locked:
            hint = f"write it with: {command(recipe)}"
            raise RecipeError(f"{path} is not there, but --locked was given", hint=hint, rule="no-lock")
        if lacking := [unseen.reason for unseen in pins.unseen.values() if unseen.mend]:
            return LockState(text, (f"{path} is not written: {'; '.join(lacking)}",))
        return _written(LockState(text), recipe, path, pins.to_commit(), f"{path} written", images_chosen)
    differences = compare(lock, pins)
    refuse_stale(recipe, path, lock, differences, locked=locked, images_chosen=images_chosen)
    # A lock of the recipe as it was before an edit is not completed with what that edit asks for.
    is_own = not any(one.path == RECIPE_DIGEST for one in differences)
    added = [one for one in differences if is_own and _completes(one, lock)]
    # What the lock says nothing of does not differ from it.
    notes = _difference_notes(recipe, [one for one in differences if not _completes(one, lock)])
    state = LockState(text, (*_unseen_notes(lock, pins), *notes))
    if not added:
        return state
    completed = {**lock.pins, **{one.path: one.now for one in added if one.now is not None}}
    blocks = ", ".join(update_paths(added))
    return _written(state, recipe, path, completed, f"{blocks} added to {path}", images_chosen)


def refuse_stale(
    recipe: Recipe,
    path: Path,
    lock: Lock,
    differences: Iterable[Difference],
    *,
    locked: bool = False,
    images_chosen: bool = False,
) -> None:
    """Stop where ``recipe`` must not run with ``differences`` from the lock in ``path``, as ``enforce`` says.

    Raises:
        RecipeError: there are such; the message has a line for each.
    """
    stale = _stopping(recipe, lock, differences, locked=locked)
    if images_chosen and not locked:
        stale = [one for one in stale if one.kind != IMAGE]
    if not stale:
        return
    why = "is out of date, but --locked was given" if locked else "pins other inputs than are here"
    raise RecipeError(
        f"{path} {why}\n" + "\n".join(f"  {one.line}" for one in stale),
        hint=f"bring back what was locked, or accept what is here with: {command(recipe, stale)}",
        rule="stale-lock",
    )


def _stopping(
    recipe: Recipe, lock: Lock, differences: Iterable[Difference], *, locked: bool
) -> list[Difference]:
    """Of ``differences`` those with which ``recipe`` must not run: other inputs, that nobody asked for.

    ``locked``: any, but for the recipe's digest under ``--set``.
    """
    if locked:
        return [one for one in differences if not _is_overriding(one, recipe)]
    chosen = chosen_anew(recipe)
    return [
        one
        for one in differences
        if one.kind in INPUTS and not _completes(one, lock) and not within(one.path, chosen)
    ]


def _is_overriding(one: Difference, recipe: Recipe) -> bool:
    """Whether the pin differs because ``--set`` was given, which is nothing to be renewed."""
    return one.path == RECIPE_DIGEST and is_changed(recipe)


def _completes(one: Difference, lock: Lock) -> bool:
    return one.was is None and is_new(lock, one.path)


def chosen_anew(recipe: Recipe) -> set[PinPath]:
    """The blocks of a lock whose inputs the command line chose."""
    return {
        block
        for block, choosers in CHOSEN_BY.items()
        if any(_is_overridden(recipe, split_path(name)) for name in choosers)
    }


def _is_overridden(recipe: Recipe, value: PinPath) -> bool:
    return recipe.positions.value(value).file.startswith(ARGUMENT_PREFIX)


def command(recipe: Recipe, stale: Iterable[Difference] = ()) -> str:
    """The command that renews the lock, or just its ``stale`` pins, as a line for a shell."""
    words = ["speculators", "lock", str(recipe.path)]
    for override in recipe.overrides:
        words += ["--set", override]
    for name in update_paths(stale):
        words += ["--update", name]
    return shlex.join(words)


def _unseen_notes(lock: Lock, pins: Pins) -> list[str]:
    """What the lock pins and could not be compared."""
    return [
        f"not compared with the lock: {dotted(path)} ({unseen.reason})"
        for path, unseen in pins.unseen.items()
        if any(within(known, (path,)) for known in lock.pins)
    ]


def _difference_notes(recipe: Recipe, differences: list[Difference]) -> list[str]:
    """A line for each kind of input that differs without stopping the run."""
    told: dict[str, list[Difference]] = {}
    for one in differences:
        told.setdefault(one.kind, []).append(one)
    return [
        f"{ones[0].mark.file}:{ones[0].mark.line}: {kind} differs from the lock: "
        + ", ".join(one.text for one in ones[:SHOWN])
        + (f" and {len(ones) - SHOWN} more" if len(ones) > SHOWN else "")
        + ("" if is_changed(recipe) else f"; renew it with: {command(recipe, ones)}")
        for kind, ones in told.items()
    ]


def is_changed(recipe: Recipe) -> bool:
    """Whether the command line changes what the recipe stands for; where it runs is no part of that."""
    return any(override.partition("=")[0].strip() != "executor" for override in recipe.overrides)


def _written(
    state: LockState,
    recipe: Recipe,
    path: Path,
    pins: dict[PinPath, Pin],
    done: str,
    images_chosen: bool,
) -> LockState:
    """``state`` after the file beside the recipe was written, or why it was not."""
    if is_changed(recipe) or images_chosen:
        option = "--image" if images_chosen else "--set"
        note = f"{path} is left as it is: {option} changes the recipe; the run keeps a lock of its own"
        return state._replace(notes=(*state.notes, note))
    try:
        write_text(path, render(pins))
    except OSError as error:
        if error.errno not in MACHINE_ERRNOS:
            raise
        note = f"{path} is not written ({error.strerror}); the run keeps a lock of its own"
        return state._replace(notes=(*state.notes, note))
    return state._replace(notes=(*state.notes, done), written=True)
