"""A lock against what its recipe stands for now: which pins do not hold any more, and the lock made anew.

Pure, as ``lock.py``.  What a difference means for a run is ``locking.py``'s business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from speculators.errors import RecipeError
from speculators.pipeline.lock import TOOL_DIGEST, Lock, Pin, Pins, within
from speculators.recipe.positions import Mark, Path, dotted
from speculators.recipe.suggestions import nearest

Kind = str

IMAGE, MODEL, DATA, TOKENIZER = "image", "model", "data", "tokenizer"
PACKAGE, RECIPE, TOOL = "package", "recipe", "tool"
#: A stage with another one of these would make something else under the same name.
INPUTS = frozenset({IMAGE, MODEL, DATA, TOKENIZER})
BLOCK_KINDS = {"prompts": DATA, "packages": PACKAGE, "name": RECIPE, "recipe": RECIPE, "tool": TOOL}
#: Of an image, the digest says what it is, and the reference only where it comes from: a mirror is no
#: other image.
IMAGE_KINDS = {"packages": PACKAGE, "reference": RECIPE}
TOKENIZER_PINS = ("tokenizer", "chat_template")
TOKENIZER_FILES = re.compile(
    r"tokenizer.*|chat_template.*|special_tokens_map\.json|added_tokens\.json|vocab\..*|merges\.txt"
)

DIGEST_SHOWN = 12
DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{40,64})")


class Difference(NamedTuple):
    """A pin that does not hold any more.  ``was`` or ``now`` is None where there is none."""

    path: Path
    kind: Kind
    was: Pin | None
    now: Pin | None
    mark: Mark

    @property
    def name(self) -> str:
        return dotted(self.path)

    @property
    def text(self) -> str:
        return f"{self.name} {shown(self.was)} -> {shown(self.now)}"

    @property
    def line(self) -> str:
        """``file:line:col: path was -> now``."""
        return f"{self.mark.file}:{self.mark.line}:{self.mark.col}: {self.text}"


def kind_of(path: Path) -> Kind:
    """What sort of input the pin at ``path`` is."""
    block, *below = map(str, path)
    if block == "images":
        return IMAGE_KINDS.get(below[1], IMAGE)
    if block == "models":
        is_file = below[1] == "files"
        name = below[2] if is_file else below[1]
        is_tokenizer = TOKENIZER_FILES.fullmatch(name) if is_file else name in TOKENIZER_PINS
        return TOKENIZER if is_tokenizer else MODEL
    return BLOCK_KINDS[block]


def compare(lock: Lock, pins: Pins) -> list[Difference]:
    """Every pin of ``lock`` that does not hold any more, and every one that it lacks, by line."""
    found = []
    for path in {*lock.pins, *pins.values}:
        was, now = lock.pins.get(path), pins.values.get(path)
        if was == now or (was is None and path == TOOL_DIGEST) or (now is None and pins.hides(path)):
            continue
        found.append(Difference(path, kind_of(path), was, now, lock.positions.key(path)))
    return sorted(found, key=lambda one: (one.mark.line, one.name))


def is_new(lock: Lock, path: Path) -> bool:
    """Whether ``path`` is in a block that the lock says nothing of yet.

    A lock that was made where stages run locally knows no images, and one from a machine without the
    model not its files; the first run that does completes it.
    """
    block = _completable(path)
    return bool(block) and not any(known[: len(block)] == block for known in lock.pins)


def _completable(path: Path) -> Path:
    """The block around ``path`` that may be added as a whole; empty when it must be there."""
    block, *below = path
    if block in ("images", "packages"):
        return (block,)
    return (block, below[0], "files") if block == "models" else ()


def names(pins: Iterable[Path]) -> dict[str, set[Path]]:
    """Every dotted name of a pin or of a block of pins, with the paths that are written so."""
    found: dict[str, set[Path]] = {}
    for path in pins:
        for end in range(1, len(path) + 1):
            found.setdefault(dotted(path[:end]), set()).add(path[:end])
    return found


def updated(lock: Lock, pins: Pins, chosen: Sequence[str]) -> dict[Path, Pin]:
    """The pins of ``lock`` with those at or below the dotted paths ``chosen`` taken from ``pins``.

    Raises:
        RecipeError: a path names nothing.
    """
    blocks = blocks_of(chosen, {*lock.pins, *pins.values})
    present = pins.to_commit()
    kept = {path: pin for path, pin in lock.pins.items() if not within(path, blocks) or pins.hides(path)}
    return kept | {path: pin for path, pin in present.items() if within(path, blocks)}


def blocks_of(chosen: Sequence[str], pins: Iterable[Path]) -> set[Path]:
    """The paths that the dotted names ``chosen`` stand for.

    Raises:
        RecipeError: a name is none of ``pins`` or of their blocks.
    """
    known = names(pins)
    for name in chosen:
        if name not in known:
            top = sorted(text for text in known if "." not in text)
            match = nearest(name, known)
            hint = f"did you mean '{match}'?" if match else f"the blocks of a lock are {', '.join(top)}"
            raise RecipeError(f"--update {name}: the lock has no such pin", hint=hint, rule="unknown-pin")
    return {path for name in chosen for path in known[name]}


def renewed(lock: Lock | None, pins: Pins) -> dict[Path, Pin]:
    """All present pins, and of the old lock what could not be looked at now."""
    old = lock.pins if lock else {}
    return {path: pin for path, pin in old.items() if pins.hides(path)} | pins.to_commit()


def update_paths(differences: Iterable[Difference]) -> list[str]:
    """What to give ``--update`` so that just these pins are renewed: few blocks, not many pins."""
    depth = {"models": 2, "prompts": 2}
    return sorted({dotted(one.path[: depth.get(str(one.path[0]), 1)]) for one in differences})


def shown(pin: Pin | None) -> str:
    """A pin in a message: of a digest the first digits."""
    if pin is None:
        return "(none)"
    found = DIGEST.fullmatch(str(pin))
    return found[1][:DIGEST_SHOWN] if found else str(pin)
