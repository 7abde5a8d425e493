"""The training loop: epochs of windows of packed sequences, a draft kept for its best epoch.

A *window* is what one optimiser step sees: ``sequences_per_step`` sequences, run one after the
other.  Their losses are divided by the supervised rows of the whole window, not of each sequence,
so that a row weighs the same whichever sequence it was packed into.

The same seed and thread count give the same bits on one machine: the order comes from ``packing``,
the weights from ``torch.manual_seed``, and nothing here draws a random number.  An interrupted run
that continues from its checkpoint (``resume``) gives those bits as well.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import torch
from safetensors.torch import save_file
from torch import nn

from speculators.datagen.shards import Document
from speculators.documents import value_digest
from speculators.errors import StageError
from speculators.training.files import DRAFT_NAME, METRICS_NAME
from speculators.training.objective import Batch, Objective, Teaching
from speculators.training.packing import pack, plan_epoch
from speculators.training.progress import Progress
from speculators.training.resume import Checkpoints, RunState
from speculators.training.schedule import learning_rate_factor
from speculators.training.validation import ValidationBatch, evaluate

BETAS = (0.9, 0.95)  # a shorter second-moment memory than torch's default: runs are short

Window = list[list[int]]  # sequences of document numbers


@dataclass(frozen=True)
class TrainingOptions:
    """The recipe's ``training`` block, with ``ttt_steps`` decided.

    ``speculative_tokens``: what serving will draft, and therefore what validation replays.
    """

    sequence_length: int
    sequences_per_step: int
    epochs: int
    learning_rate: float
    weight_decay: float
    warmup_fraction: float
    gradient_clip: float
    step_decay: float
    ttt_steps: int
    speculative_tokens: int
    seed: int

    @property
    def teaching(self) -> Teaching:
        """The part that the objective reads."""
        return Teaching(self.ttt_steps, self.step_decay)


class WindowLoss(NamedTuple):
    """A window's loss, and what it is made of."""

    loss: float
    by_step: list[float]  # mean divergence of a supervised row at each train-time-test step
    supervised: int  # rows at step 0
    tokens: int


class Trained(NamedTuple):
    """What a run leaves besides its files.

    ``training_seconds`` leaves out validation and the writing of checkpoints.  Of an interrupted
    attempt it counts what its checkpoint covers: the same steps and tokens, each once.
    """

    best_epoch: int  # 1-based
    validation: dict[str, Any] | None  # of the best epoch
    optimiser_steps: int
    tokens: int  # read over all epochs
    training_seconds: float


def plan_run(lengths: Sequence[int], options: TrainingOptions) -> list[list[Window]]:
    """Every epoch's windows, known before the run starts: the schedule needs their number."""
    epochs = []
    for epoch in range(options.epochs):
        sequences = plan_epoch(lengths, options.sequence_length, options.seed, epoch)
        size = options.sequences_per_step
        epochs.append([sequences[start : start + size] for start in range(0, len(sequences), size)])
    return epochs


def backward(objective: Objective, window: Sequence[Batch]) -> WindowLoss:
    """Add the window's gradient to the draft's parameters.

    The loss is the sum of all rows' divergences, weighted by the objective from the supervised rows
    of the whole window; numbers are read once, after the last sequence.

    Raises:
        StageError: a loss is not finite; the message names the documents.
    """
    device = objective.verifier.embedding.device
    supervised = torch.tensor([batch.supervised for batch in window]).sum(dim=0).to(device)  # [K]
    weights = objective.weights(supervised)  # [K]
    sums = torch.stack([objective.backward(batch, weights) for batch in window])  # [N, K]
    means = sums.sum(dim=0) / supervised.clamp(min=1)  # [K]
    loss = (weights * sums).sum()
    figures = torch.cat([loss[None], means, sums.sum(dim=1)]).tolist()
    positions = len(means)
    total, by_position, by_sequence = figures[0], figures[1 : 1 + positions], figures[1 + positions :]
    if not math.isfinite(total):
        broken = [batch for batch, value in zip(window, by_sequence) if not math.isfinite(value)]
        names = [name for batch in broken or window for name in batch.sequence.ids]
        raise StageError(
            f"the loss is {total} on documents {', '.join(names)}",
            hint="check these documents' hidden states, or lower training.learning_rate",
            rule="loss-not-finite",
        )
    return WindowLoss(
        loss=total,
        by_step=by_position,
        supervised=sum(batch.supervised[0] for batch in window),
        tokens=sum(len(batch.sequence.token_ids) for batch in window),
    )


def make_optimiser(draft: nn.Module, options: TrainingOptions) -> torch.optim.AdamW:
    """AdamW; only matrices decay, since pulling a norm's gain to zero regularises nothing."""
    matrices = [parameter for parameter in draft.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in draft.parameters() if parameter.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=BETAS)


def train(
    objective: Objective,
    documents: Sequence[Document],
    held_out: Sequence[ValidationBatch],
    options: TrainingOptions,
    folder: Path,
    checkpoints: Checkpoints,
    say: Callable[[str], None] = print,
    interrupted: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train the objective's draft in place; leave its best state and the run's metrics in ``folder``.

    The best epoch has the longest replayed acceptance length on ``held_out``; without validation
    documents it is the last one.  What ``checkpoints`` hold of an interrupted attempt is continued.
    ``interrupted`` is asked after each window and each epoch.

    Raises:
        StageError: a loss or a gradient is not finite.
        KeyboardInterrupt: ``interrupted`` said yes; a checkpoint is written.
    """
    draft, device = objective.draft, objective.verifier.embedding.device
    plan = plan_run([len(document.token_ids) for document in documents], options)
    total_steps = sum(len(windows) for windows in plan)
    optimiser = make_optimiser(draft, options)
    ingredients = run_digest(draft, documents, held_out, options)
    state = RunState(draft, optimiser, folder / METRICS_NAME, folder / DRAFT_NAME, ingredients)
    progress = Progress(total_steps, say, checkpoints.restore(state, say))
    if progress.steps:
        epoch = min(progress.epochs + 1, options.epochs)
        say(f"continuing from step {progress.steps} of {total_steps} (epoch {epoch})")
    with state.metrics.open("a", encoding="utf-8") as metrics:
        for epoch in range(progress.epochs + 1, options.epochs + 1):
            for window in plan[epoch - 1][progress.windows :]:
                factor = learning_rate_factor(progress.steps, total_steps, options.warmup_fraction)
                rate = options.learning_rate * factor
                batches = [
                    make_batch(objective, documents, numbers, options.seed, epoch).to(device)
                    for numbers in window
                ]
                result, norm = optimiser_step(objective, batches, options, optimiser, rate)
                progress.step(epoch, result.loss, result.tokens)
                figures = {"learning_rate": rate, "gradient_norm": norm, **result._asdict()}
                write_metric(metrics, kind="step", epoch=epoch, step=progress.steps, **figures)
                keep_place(checkpoints, state, progress, due=checkpoints.due(), stop=interrupted())
            with progress.pause():
                validation = evaluate(objective, held_out, options.speculative_tokens) if held_out else None
            kept = is_better(validation, progress.validation)
            if kept:
                save_draft(draft, state.export)
            progress.end_epoch(validation, kept=kept)
            write_metric(metrics, kind="epoch", epoch=epoch, kept=kept, validation=validation)
            say(epoch_line(epoch, options.epochs, validation, kept))
            keep_place(checkpoints, state, progress, due=True, stop=interrupted())
    return Trained(
        progress.best_epoch, progress.validation, progress.steps, progress.tokens, progress.seconds
    )


def make_batch(
    objective: Objective, documents: Sequence[Document], numbers: Sequence[int], seed: int, epoch: int
) -> Batch:
    """Pack the numbered documents; what the objective draws depends on seed, epoch and documents only."""
    draws = torch.Generator().manual_seed(random.Random(f"{seed}/{epoch}/{numbers}").getrandbits(63))
    return objective.batch(pack([documents[number] for number in numbers]), draws)


def run_digest(
    draft: nn.Module,
    documents: Sequence[Document],
    batches: Sequence[ValidationBatch],
    options: TrainingOptions,
) -> str:
    """Tells runs apart that must not continue each other.

    The store's key does this and more, but a stage is also run by hand, into a folder of one's choice.
    """
    held_out = [document for batch in batches for document in batch.documents]
    return value_digest(
        {
            "options": asdict(options),
            "parameters": {name: list(tensor.shape) for name, tensor in draft.state_dict().items()},
            "documents": [(document.id, len(document.token_ids)) for document in documents],
            "validation": [(document.id, len(document.token_ids)) for document in held_out],
        }
    )


def keep_place(
    checkpoints: Checkpoints, state: RunState, progress: Progress, *, due: bool, stop: bool
) -> None:
    """Between windows: a checkpoint if one is due, and the only place where an interrupted run ends.

    It also ends after the last epoch: what then comes is done again, from the checkpoint, in no time.
    """
    if due or stop:
        with progress.pause():
            checkpoints.write(state, progress.reached)
    if stop:
        progress.say(f"interrupted at step {progress.steps} of {progress.total_steps}; checkpoint written")
        raise KeyboardInterrupt


def is_better(validation: dict[str, Any] | None, best: dict[str, Any] | None) -> bool:
    """Whether an epoch beats the best so far; without validation documents the later one does."""
    length = (validation or {}).get("acceptance_length")
    return length is None or length > ((best or {}).get("acceptance_length") or 0.0)


def optimiser_step(
    objective: Objective,
    window: Sequence[Batch],
    options: TrainingOptions,
    optimiser: torch.optim.Optimizer,
    rate: float,
) -> tuple[WindowLoss, float]:
    """One update at ``rate``: returns the window's loss and the gradient norm before clipping."""
    optimiser.zero_grad(set_to_none=True)
    result = backward(objective, window)
    norm = torch.nn.utils.clip_grad_norm_(objective.draft.parameters(), options.gradient_clip).item()
    if not math.isfinite(norm):
        names = ", ".join(name for batch in window for name in batch.sequence.ids)
        raise StageError(
            f"the gradient norm is {norm} on documents {names}",
            hint="check these documents' hidden states, or lower training.learning_rate",
            rule="gradient-not-finite",
        )
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    return result, norm


def save_draft(draft: nn.Module, path: Path) -> None:
    """Write the draft's trained tensors in float32, whole or not at all.

    A new file each time: a checkpoint holds on to the one before by a hard link.
    """
    partial = path.with_name(path.name + ".partial")
    state = draft.state_dict().items()
    save_file({name: tensor.detach().float().contiguous() for name, tensor in state}, partial)
    partial.replace(path)


def write_metric(file: TextIO, **values: Any) -> None:
    """Append one JSON line, flushed for who follows the file; no times, so equal runs leave equal files."""
    file.write(json.dumps(values) + "\n")
    file.flush()


def epoch_line(epoch: int, epochs: int, validation: dict[str, Any] | None, kept: bool) -> str:
    """One line about a finished epoch."""
    if not validation or validation["acceptance_length"] is None:
        return f"epoch {epoch}/{epochs}: no validation documents"
    positions = " ".join(f"{rate:.3f}" for rate in validation["per_position"])
    return (
        f"epoch {epoch}/{epochs}: acceptance length {validation['acceptance_length']:.3f} replayed on "
        f"{validation['documents']} validation documents (positions {positions}){', kept' if kept else ''}"
    )
