"""Training checkpoints: an interrupted run continues as if nothing had happened.

A checkpoint is not an export.  The export (``draft.safetensors`` in the output folder) is the best
epoch's draft and is what later stages read; a checkpoint is where training stands, is read by the
next attempt of the same training only, and is gone once that is finished.

What a checkpoint holds, so that the continued losses equal the undisturbed ones, on a CPU to the last digit:

* ``state.safetensors``  draft and the optimiser's moments in their own precision, the random generators
* ``metrics.jsonl``      as far as this checkpoint covers it
* ``draft.safetensors``  the best draft up to here, if a validation is done
* ``checkpoint.json``    the place in the run, and digests of all of this

Schedule and data order need no state of their own: both are functions of the recipe and the place.

**Why the output files are part of it.**  They may be newer than the checkpoint: an epoch ends, its
draft is exported, its metrics are written, and the process is killed before the checkpoint.  The
epoch's end is then done again, and on the same machine writes the same bytes.  But with another
thread count the epoch may no longer be the best, and then nothing would replace the export that is
already there.  So an attempt never looks at what the output folder holds: it puts both files back
as the checkpoint knows them, or removes them when it starts over.

**Why a kill at any moment leaves a whole checkpoint.**  One is written under a name that is never
read, synced, and renamed; only then is the one before removed.  Whatever is read is first compared
with its digests.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from speculators.documents import file_digest, read_json, value_digest, write_json
from speculators.training.optimiser import Optimiser
from speculators.training.parallel import part, whole
from speculators.training.progress import Reached
from speculators.training.ranks import ALONE, Ranks

SCHEMA = "speculators/training-checkpoint/v3"
STATE_NAME = "state.safetensors"
DOCUMENT_NAME = "checkpoint.json"
PREFIX, PARTIAL = "checkpoint-", ".partial"
AT_LEAST = 60.0  # seconds between checkpoints within an epoch
TIMES_WRITE = 30.0  # and as many times what the last one took: at most some 3 % goes into them


class RunState(NamedTuple):
    """What changes while a run goes on, apart from its ``Reached``.

    ``metrics`` is appended to in place; ``export`` is only ever replaced whole.
    ``belongs_to`` is a digest of what the run is made from: it must not continue another one.
    """

    draft: nn.Module
    optimiser: Optimiser
    metrics: Path
    export: Path
    belongs_to: str


class Checkpoints:
    """The checkpoints of one run below one folder, and when the next one is due.

    Of several ranks the first one writes and chooses what is continued; each reads its part of that.
    """

    def __init__(self, folder: Path, *, at_least: float = AT_LEAST, times_write: float = TIMES_WRITE) -> None:
        self.folder = folder
        self.at_least, self.times_write = at_least, times_write
        self.written, self.write_seconds = time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether the last checkpoint is old enough for another within an epoch."""
        age = time.monotonic() - self.written
        return age >= max(self.at_least, self.times_write * self.write_seconds)

    def write(self, state: RunState, reached: Reached, ranks: Ranks = ALONE) -> None:
        """Write a checkpoint; the older ones go once it is there."""
        began = time.monotonic()
        # What the others give of theirs is kept by the first rank alone, and off its device.
        tensors = {name: tensor.cpu() for name, tensor in _named_tensors(state) if ranks.leads}
        if not ranks.leads:
            return
        # Not named by the step alone: a window and the validation after it have the same one.
        name = f"{PREFIX}{reached.steps:08d}-{reached.course.validations:04d}"
        finished, partial = self.folder / name, self.folder / (name + PARTIAL)
        _clear(partial)
        partial.mkdir(parents=True)
        _fill(partial, tensors, state, reached, ranks)
        # Only a checkpoint that was refused can have this name: a run continues beyond what it read.
        _clear(finished)
        partial.rename(finished)
        _sync(self.folder)
        for other in self.folder.glob(PREFIX + "*"):
            if other != finished:
                _clear(other)
        self.written = time.monotonic()
        self.write_seconds = self.written - began

    def restore(self, state: RunState, say: Callable[[str], None], ranks: Ranks = ALONE) -> Reached:
        """Bring ``state`` to the latest sound checkpoint, or its files to a new run's; how far that is."""
        found = ranks.lead(self._take_up(state, say) if ranks.leads else None)
        if found is None:
            return Reached()
        folder, document = found
        _load_tensors(load_file(folder / STATE_NAME), state)
        if document["arithmetic"] != (here := arithmetic(state.draft, ranks)):
            say(
                f"warning: the checkpoint was computed with {document['arithmetic']}, this process "
                f"has {here}: losses may differ in their last digits from an undisturbed run's"
            )
        return Reached.of(document["reached"])

    def _take_up(self, state: RunState, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        """Choose the checkpoint to continue, and make the output's files those that it knows."""
        found = self._latest(state, say)
        for leftover in (*state.export.parent.glob("*" + PARTIAL), state.metrics, state.export):
            leftover.unlink(missing_ok=True)
        if found is not None:
            folder, _ = found
            shutil.copyfile(folder / state.metrics.name, state.metrics)
            if (folder / state.export.name).exists():
                _link(folder / state.export.name, state.export)
        return found

    def _latest(self, state: RunState, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that can be trusted, and its document."""
        refused = False
        for folder in sorted(self.folder.glob(PREFIX + "*"), reverse=True):
            if folder.name.endswith(PARTIAL):
                continue
            try:
                return folder, read_sound(folder, state.belongs_to)
            except ValueError as error:
                say(f"{folder} is not used: {error}")
                refused = True
        if refused:
            say("no checkpoint is left to continue from: training starts over")
        return None


def read_sound(folder: Path, belongs_to: str) -> dict[str, Any]:
    """The document of the checkpoint in ``folder``, all of it compared with its digests.

    Raises:
        ValueError: it is damaged, or another run's; the message says which.
    """
    try:
        sealed = read_json(folder / DOCUMENT_NAME)
        document: dict[str, Any] = sealed["checkpoint"]
        damaged = [] if value_digest(document) == sealed["digest"] else [DOCUMENT_NAME]
        damaged += [
            name for name, digest in document["files"].items() if file_digest(folder / name) != digest
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"it cannot be read ({error})") from None
    if damaged:
        raise ValueError(f"{', '.join(damaged)} is damaged")
    if (document["schema"], document["belongs_to"]) != (SCHEMA, belongs_to):
        raise ValueError("it was made from other options or documents")
    return document


def arithmetic(draft: nn.Module, ranks: Ranks = ALONE) -> str:
    """What decides the last digits of a sum besides its terms."""
    device = next(draft.parameters()).device.type
    together = f" in each of {ranks.count} ranks" if ranks.count > 1 else ""
    return f"{torch.get_num_threads()} threads on {device}{together}"


def _fill(
    folder: Path, tensors: dict[str, torch.Tensor], state: RunState, reached: Reached, ranks: Ranks
) -> None:
    save_file(tensors, folder / STATE_NAME)
    shutil.copyfile(state.metrics, folder / state.metrics.name)
    if state.export.exists():
        _link(state.export, folder / state.export.name)
    document = {
        "schema": SCHEMA,
        "belongs_to": state.belongs_to,
        "arithmetic": arithmetic(state.draft, ranks),
        "reached": reached.document(),
        "files": {file.name: file_digest(file) for file in sorted(folder.iterdir())},
    }
    write_json(folder / DOCUMENT_NAME, {"checkpoint": document, "digest": value_digest(document)})
    for path in (*folder.iterdir(), folder):
        _sync(path)


def _named_tensors(state: RunState) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor that decides how the run goes on, whole; all ranks go through it together."""
    for name, tensor in state.draft.state_dict().items():
        yield f"draft/{name}", whole(tensor).contiguous()
    for name, moment, tensor in state.optimiser.state():
        yield f"optimiser/{name}/{moment}", whole(tensor).contiguous()
    yield "random/cpu", torch.get_rng_state()  # [5056] uint8
    if torch.cuda.is_available():
        yield "random/cuda", torch.cuda.get_rng_state()  # [16] uint8, of this rank's device


def _load_tensors(tensors: dict[str, torch.Tensor], state: RunState) -> None:
    """Undo ``_named_tensors``: each rank takes its part."""
    held = state.draft.state_dict()
    moments: dict[str, dict[str, torch.Tensor]] = {}
    for path, tensor in tensors.items():
        kind, _, name = path.partition("/")
        if kind == "draft":
            held[name].copy_(part(tensor, held[name]))
        elif kind == "optimiser":
            parameter, _, moment = name.partition("/")
            # The optimiser keeps what it is given: without a copy a window on the file, aligned by chance.
            moments.setdefault(parameter, {})[moment] = part(tensor, held[parameter]).clone()
    state.optimiser.load(moments)
    torch.set_rng_state(tensors["random/cpu"])
    if torch.cuda.is_available() and "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"])


def _link(source: Path, target: Path) -> None:
    """``source`` under a second name: free where there are hard links, and safe for a file that is
    replaced but never changed in place."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
