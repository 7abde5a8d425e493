"""A step for nothing on what needs the most memory: what does not fit shows in the first minute.

Sequences come in a shuffled order, so without it the worst may come hours into a run.  It is run
with all that a later step finds there: the optimiser's moments, whose room is taken by stand-ins as long as
there are none, and the gradients of the sequence before, by running it twice where a rank has several in a
window; more of them need no more.  Draft, optimiser and random generators are as they were after it.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence

import torch

from speculators.datagen.shards import Document
from speculators.errors import MachineError
from speculators.quantities import size
from speculators.training.objective import Objective
from speculators.training.optimiser import Optimiser
from speculators.training.ranks import ALONE, Ranks
from speculators.training.run_plan import Window
from speculators.training.step import backward, share_of

#: How torch's CPU allocator says no; on CUDA it has a class of its own.
CPU_WORDS = ("DefaultCPUAllocator", "can't allocate memory", "not enough memory", "std::bad_alloc")


def neediest(windows: Sequence[Window], documents: Sequence[Document]) -> list[list[int]]:
    """Document numbers of the longest sequence; of others that have more to learn, or more to attend to.

    Which one needs the most is the objective's: some run every row and some those that are taught, and
    some keep a score for every pair of a document's tokens.  Of equals the one with the longest document.
    """
    lengths = [len(document.token_ids) for document in documents]
    learned = [length - document.prompt_tokens for length, document in zip(lengths, documents)]
    pairs = [length * length for length in lengths]
    sequences = {tuple(sequence) for window in windows for sequence in window}

    def total(amounts: Sequence[int], sequence: Sequence[int]) -> int:
        return sum(amounts[number] for number in sequence)

    chosen: list[tuple[int, ...]] = []
    for amounts in (lengths, learned, pairs):
        most = max(sequences, key=lambda one: (total(amounts, one), max(lengths[n] for n in one), one))
        if all(total(amounts, most) > total(amounts, one) for one in chosen):
            chosen.append(most)
    return [list(one) for one in chosen]


def dry_step(
    objective: Objective,
    documents: Sequence[Document],
    windows: Sequence[Window],
    optimiser: Optimiser,
    say: Callable[[str], None],
    ranks: Ranks = ALONE,
) -> None:
    """Run the neediest sequences forwards and backwards, on each of the ``ranks``, and forget the gradient.

    Raises:
        StageError: the loss on one is not finite.
        MachineError: one does not fit the memory.
    """
    device = objective.verifier.embedding.device
    generators = [device] if device.type == "cuda" else []
    runs = 2 if max(map(len, windows)) > ranks.count else 1
    for sequence in neediest(windows, documents):
        tokens = sum(len(documents[number].token_ids) for number in sequence)
        taught = tokens - sum(documents[number].prompt_tokens for number in sequence)
        what, began = f"{tokens} tokens, {taught} of them to learn", time.monotonic()
        try:
            with torch.random.fork_rng(devices=generators):
                # As many sequences for each rank: none is idle.
                share = share_of([sequence] * (runs * ranks.count), objective, documents, 0, 0, ranks).to(
                    device
                )
                moments = optimiser.stand_ins()
                backward(objective, share, ranks)
                del moments
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise too_large(what, device, error) from error
        finally:
            optimiser.zero_grad()
        seconds, peak = time.monotonic() - began, size(peak_bytes(device))
        say(f"dry step on {what}: {seconds:.1f} s, peak memory {peak}")
    if device.type == "cuda":
        torch.cuda.empty_cache()  # of the stand-ins: blocks of other sizes will be asked for


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch or Python could not get the memory it wanted."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in str(error) for words in CPU_WORDS
    )


def too_large(what: str, device: torch.device, error: Exception) -> MachineError:
    """The error that says what to lower."""
    return MachineError(
        f"a training step on a sequence of {what}, does not fit the memory of {device}: "
        f"{(str(error) or type(error).__name__).splitlines()[0]}",
        hint="turn training.gradient_checkpointing on, or lower training.sequence_length; sequences_per_step "
        "costs no memory beyond the gradients, so raise it by as much",
        rule="out-of-memory",
    )


def peak_bytes(device: torch.device) -> int:
    """The most memory that this process has had, of the device or, on a CPU, of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kibibytes everywhere else
