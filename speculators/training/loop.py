"""The training loop: epochs of windows of packed sequences, a draft kept for its best epoch.

A *window* is what one optimiser step sees: ``sequences_per_step`` sequences, run one after the
other.  Their losses are divided by the supervised rows of the whole window, not of each sequence,
so that a row weighs the same whichever sequence it was packed into.

The same seed and thread count give the same bits on one machine: the order comes from ``packing``,
the weights from ``torch.manual_seed``, and nothing here draws a random number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import torch
from safetensors.torch import save_file

from speculators.datagen.shards import Document
from speculators.errors import StageError
from speculators.models.eagle3 import Eagle3Draft
from speculators.training.losses import forward_kl
from speculators.training.packing import PackedSequence, pack, plan_epoch
from speculators.training.progress import Progress
from speculators.training.schedule import learning_rate_factor
from speculators.training.ttt import FrozenVerifier, draft_steps, supervised_rows, target_logits
from speculators.training.validation import ValidationBatch, evaluate

DRAFT_NAME = "draft.safetensors"
METRICS_NAME = "metrics.jsonl"
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


class WindowLoss(NamedTuple):
    """A window's loss, and what it is made of."""

    loss: float
    by_step: list[float]  # mean divergence of a supervised row at each train-time-test step
    supervised: int  # rows at step 0
    tokens: int


class Trained(NamedTuple):
    """What a run leaves besides its files."""

    best_epoch: int  # 1-based
    validation: dict[str, Any] | None  # of the best epoch
    optimiser_steps: int
    tokens: int  # read over all epochs
    training_seconds: float  # without validation


def plan_run(lengths: Sequence[int], options: TrainingOptions) -> list[list[Window]]:
    """Every epoch's windows, known before the run starts: the schedule needs their number."""
    epochs = []
    for epoch in range(options.epochs):
        sequences = plan_epoch(lengths, options.sequence_length, options.seed, epoch)
        size = options.sequences_per_step
        epochs.append([sequences[start : start + size] for start in range(0, len(sequences), size)])
    return epochs


def backward(
    draft: Eagle3Draft, verifier: FrozenVerifier, window: Sequence[PackedSequence], options: TrainingOptions
) -> WindowLoss:
    """Add the window's gradient to the draft's parameters.

    loss = sum over steps k of step_decay^k * (sum of row divergences at k / supervised rows at k),
    the sums running over the whole window.

    Raises:
        StageError: a loss is not finite; the message names the documents.
    """
    steps = range(options.ttt_steps)
    supervised = [sum(len(supervised_rows(sequence, step)) for sequence in window) for step in steps]
    divergences = [0.0] * options.ttt_steps
    for sequence in window:
        targets = target_logits(verifier, sequence)  # [S, Vd]
        loss = targets.new_zeros(())
        for step in draft_steps(draft, verifier, sequence, options.ttt_steps):
            divergence = forward_kl(step.logits, targets[step.rows + 1 + step.step]).sum()
            loss = loss + options.step_decay**step.step * divergence / max(1, supervised[step.step])
            divergences[step.step] += divergence.item()
        if not torch.isfinite(loss):
            raise StageError(
                f"the loss is {loss.item()} on documents {', '.join(sequence.ids)}",
                hint="check these documents' hidden states, or lower training.learning_rate",
                rule="loss-not-finite",
            )
        if loss.requires_grad:
            loss.backward()
    by_step = [total / max(1, count) for total, count in zip(divergences, supervised)]
    return WindowLoss(
        loss=sum(options.step_decay**step * by_step[step] for step in steps),
        by_step=by_step,
        supervised=supervised[0],
        tokens=sum(len(sequence.token_ids) for sequence in window),
    )


def make_optimiser(draft: Eagle3Draft, options: TrainingOptions) -> torch.optim.AdamW:
    """AdamW; only matrices decay, since pulling a norm's gain to zero regularises nothing."""
    matrices = [parameter for parameter in draft.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in draft.parameters() if parameter.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=BETAS)


def train(
    draft: Eagle3Draft,
    verifier: FrozenVerifier,
    documents: Sequence[Document],
    batches: Sequence[ValidationBatch],
    options: TrainingOptions,
    folder: Path,
    say: Callable[[str], None] = print,
) -> Trained:
    """Train ``draft`` in place; leave its best state and the run's metrics in ``folder``.

    The best epoch has the longest replayed acceptance length on ``batches``; without validation
    documents it is the last one.

    Raises:
        StageError: a loss or a gradient is not finite.
    """
    device = verifier.embedding.device
    plan = plan_run([len(document.token_ids) for document in documents], options)
    total_steps = sum(len(windows) for windows in plan)
    optimiser = make_optimiser(draft, options)
    progress = Progress(total_steps, say)
    best_epoch, best_length, best_validation = 0, float("-inf"), None
    with (folder / METRICS_NAME).open("w", encoding="utf-8") as metrics:
        for epoch, windows in enumerate(plan, start=1):
            for window in windows:
                factor = learning_rate_factor(progress.steps, total_steps, options.warmup_fraction)
                rate = options.learning_rate * factor
                sequences = [pack([documents[number] for number in numbers]).to(device) for numbers in window]
                result, norm = optimiser_step(draft, verifier, sequences, options, optimiser, rate)
                progress.step(epoch, result.loss, result.tokens)
                figures = {"learning_rate": rate, "gradient_norm": norm, **result._asdict()}
                write_metric(metrics, kind="step", epoch=epoch, step=progress.steps, **figures)
            with progress.pause():
                validation = (
                    evaluate(draft, verifier, batches, options.speculative_tokens) if batches else None
                )
            length = (validation or {}).get("acceptance_length")
            better = length is None or length > best_length
            if better:
                best_epoch, best_validation, best_length = epoch, validation, length or best_length
                save_draft(draft, folder)
            write_metric(metrics, kind="epoch", epoch=epoch, kept=better, validation=validation)
            say(epoch_line(epoch, options.epochs, validation, better))
    return Trained(best_epoch, best_validation, progress.steps, progress.tokens, progress.seconds)


def optimiser_step(
    draft: Eagle3Draft,
    verifier: FrozenVerifier,
    window: Sequence[PackedSequence],
    options: TrainingOptions,
    optimiser: torch.optim.Optimizer,
    rate: float,
) -> tuple[WindowLoss, float]:
    """One update at ``rate``: returns the window's loss and the gradient norm before clipping."""
    optimiser.zero_grad(set_to_none=True)
    result = backward(draft, verifier, window, options)
    norm = torch.nn.utils.clip_grad_norm_(draft.parameters(), options.gradient_clip).item()
    if not math.isfinite(norm):
        names = ", ".join(name for sequence in window for name in sequence.ids)
        raise StageError(
            f"the gradient norm is {norm} on documents {names}",
            hint="check these documents' hidden states, or lower training.learning_rate",
            rule="gradient-not-finite",
        )
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    return result, norm


def save_draft(draft: Eagle3Draft, folder: Path) -> None:
    """Write the draft's trained tensors in float32, whole or not at all."""
    partial = folder / (DRAFT_NAME + ".partial")
    state = draft.state_dict().items()
    save_file({name: tensor.detach().float().contiguous() for name, tensor in state}, partial)
    partial.replace(folder / DRAFT_NAME)


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
