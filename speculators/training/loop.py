"""The training loop: windows of packed sequences and validations in between, the best draft kept.

A *window* is what one optimiser step sees: ``sequences_per_step`` sequences, run one after the
other, or side by side on several ranks.  Their losses are divided by the supervised rows of the whole
window, not of each sequence, so that a row weighs the same wherever it was packed or run.

The same seed, thread count and number of ranks give the same bits on one machine's CPU: the order comes
from ``run_plan``, the weights from ``torch.manual_seed``, and nothing here draws a random number.  An
interrupted run that continues from its checkpoint (``resume``) gives those bits as well.  On CUDA some
kernels (``index_add_``, flash attention's backward pass) add in an order that differs from run to run: there
only the numbers that go in are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import nn

from speculators.datagen.shards import Document
from speculators.documents import value_digest
from speculators.training.course import Course
from speculators.training.dry_step import dry_step
from speculators.training.files import DRAFT_NAME, METRICS_NAME
from speculators.training.metrics import Metrics, Tracker, writing
from speculators.training.noise import Gain
from speculators.training.objective import Objective, Teaching
from speculators.training.optimiser import Optimiser
from speculators.training.parallel import spread, whole, whole_draft
from speculators.training.prefetch import Prefetch
from speculators.training.progress import Progress
from speculators.training.ranks import ALONE, Ranks
from speculators.training.resume import Checkpoints, RunState
from speculators.training.run_plan import RunPlan, plan_run
from speculators.training.schedule import learning_rate_factor
from speculators.training.step import Share, optimiser_step, share_of
from speculators.training.validation import Judged, ValidationBatch, evaluate

#: By the recipe's ``training.precision``.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class TrainingOptions:
    """What of the recipe's ``training`` block decides the result, with ``ttt_steps`` decided.

    ``speculative_tokens``: what serving will draft, and therefore what validation replays.
    ``started_from``: digest of the weights that ``init_from`` names.
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
    optimizer: str = "adamw"
    schedule: str = "cosine"
    validations_per_epoch: int = 1
    early_stop: int | None = None
    anchors: int | None = None
    losses: Mapping[str, float] = field(default_factory=lambda: {"forward_kl": 1.0})
    precision: str = "float32"
    gradient_checkpointing: bool = False
    started_from: str | None = None

    @property
    def teaching(self) -> Teaching:
        """The part that the objective reads."""
        return Teaching(
            self.ttt_steps,
            self.step_decay,
            self.losses,
            DTYPES[self.precision],
            self.gradient_checkpointing,
            anchors=self.anchors,
        )

    def plan(self, lengths: Sequence[int]) -> RunPlan:
        """The plan for documents of ``lengths`` tokens."""
        return plan_run(
            lengths,
            self.sequence_length,
            self.sequences_per_step,
            self.epochs,
            self.seed,
            self.validations_per_epoch,
        )

    def rate(self, step: int, total_steps: int) -> float:
        """The learning rate of optimiser step ``step`` (0-based)."""
        factor = learning_rate_factor(step, total_steps, self.warmup_fraction, self.schedule)
        return self.learning_rate * factor


class Trained(NamedTuple):
    """What a run leaves besides its files.

    ``training_seconds`` leaves out validation and the writing of checkpoints.  Of an interrupted
    attempt it counts what its checkpoint covers: the same steps and tokens, each once.
    """

    course: Course
    optimiser_steps: int
    tokens: int  # read over all epochs
    training_seconds: float
    stopped_early: bool


def train(
    objective: Objective,
    documents: Sequence[Document],
    held_out: Sequence[ValidationBatch],
    options: TrainingOptions,
    folder: Path,
    checkpoints: Checkpoints,
    say: Callable[[str], None] = print,
    interrupted: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
    parallelism: str = "ddp",
    follow: Callable[[int], Sequence[Tracker]] = lambda step: (),
    published: Judged | None = None,
) -> Trained:
    """Train the objective's draft in place; leave its best state and the run's metrics in ``folder``.

    The best draft has the longest replayed acceptance length on ``held_out``; without validation
    documents it is the last one.  ``published``: how the draft as it comes was judged there, where training
    must surpass it or leave it as it is.  What ``checkpoints`` hold of an interrupted attempt is continued.
    ``interrupted`` is asked after each window and each validation.  Of several ``ranks`` each calls
    this with the same arguments.  ``follow``: who else is told the figures, from a step on.

    Raises:
        StageError: a loss or a gradient is not finite.
        MachineError: a step on one of the sequences does not fit the memory.
        KeyboardInterrupt: ``interrupted`` said yes on any rank; a checkpoint is written.
    """
    draft, plan = objective.draft, options.plan([len(document.token_ids) for document in documents])
    ingredients = run_digest(objective, documents, held_out, options)
    objective.draft = spread(draft, parallelism, ranks)
    optimiser = Optimiser(draft, options.optimizer, options.weight_decay)
    state = RunState(draft, optimiser, folder / METRICS_NAME, folder / DRAFT_NAME, ingredients)
    progress = Progress(len(plan.windows), say, checkpoints.restore(state, say, ranks))

    if published and published.figures["acceptance_length"] is not None and progress.course == Course():
        progress.course = Course.from_published(published)
        save_draft(state.draft, state.export, ranks)

    def share(number: int) -> Share:
        epoch = plan.epoch_of(number)
        return share_of(plan.windows[number], objective, documents, options.seed, epoch, ranks)

    shares = Prefetch(share, progress.total_steps, objective.verifier.embedding.device)
    run = _Run(objective, shares, held_out, options, plan, state, progress, ranks)
    if progress.steps:
        epoch = min(plan.epoch_of(progress.steps - run.validation_is_due), options.epochs)
        say(f"continuing from step {progress.steps} of {progress.total_steps} (epoch {epoch})")
    with progress.pause():
        dry_step(objective, documents, plan.windows, optimiser, say, ranks)
    trackers = follow(progress.steps) if ranks.leads else ()
    with shares, writing(state.metrics if ranks.leads else None, trackers, say) as metrics:
        while not run.finished:
            if run.validation_is_due:
                run.validate(metrics)
                due = True
            else:
                run.step(metrics)
                due = ranks.leads and checkpoints.due()
            keep_place(checkpoints, state, progress, ranks, *ranks.any(due, interrupted()))
    course = progress.course
    if outcome := course.outcome():
        say(forecast_line(outcome))
    if course.best and not course.best_epoch:
        length = course.best["acceptance_length"]
        say(f"no validation surpassed the published draft's {length:.3f}: it is kept as it was published")
    stopped = progress.steps < progress.total_steps
    return Trained(course, progress.steps, progress.tokens, progress.seconds, stopped)


class _Run(NamedTuple):
    """A run at work, between one window or validation and the next."""

    objective: Objective
    shares: Prefetch
    held_out: Sequence[ValidationBatch]
    options: TrainingOptions
    plan: RunPlan
    state: RunState
    progress: Progress
    ranks: Ranks

    @property
    def validation_is_due(self) -> bool:
        return self.progress.course.validations < self.plan.validations_due(self.progress.steps)

    @property
    def finished(self) -> bool:
        if self.validation_is_due:
            return False
        return self.progress.course.stalls or self.progress.steps == self.progress.total_steps

    def step(self, metrics: Metrics) -> None:
        """One window."""
        options, progress = self.options, self.progress
        epoch, rate = self.plan.epoch_of(progress.steps), options.rate(progress.steps, progress.total_steps)
        share = self.shares.take(progress.steps)
        optimiser, clip = self.state.optimiser, options.gradient_clip
        result, norm = optimiser_step(self.objective, share, optimiser, rate, clip, self.ranks)
        progress.step(epoch, result.loss, result.tokens)
        figures = {"learning_rate": rate, "gradient_norm": norm, **result._asdict()}
        metrics.write("step", progress.steps, epoch=epoch, **figures)

    def validate(self, metrics: Metrics) -> None:
        """Replay the draft on the validation documents; keep it if it is the best so far."""
        progress, tokens = self.progress, self.options.speculative_tokens
        epoch = self.plan.epochs_done(progress.steps)
        with progress.pause(), whole_draft(self.objective.draft):
            judged = evaluate(self.objective, self.held_out, tokens, self.ranks) if self.held_out else None
        before = progress.course
        share = self.plan.share(progress.steps)
        course, kept, gain = before.after(judged, share, epoch, 1 + tokens, self.options.early_stop)
        progress.course = course
        if kept:
            save_draft(self.state.draft, self.state.export, self.ranks)
        figures = judged.figures if judged else None
        gained = gain._asdict() if gain else None
        metrics.write("epoch", progress.steps, epoch=epoch, kept=kept, gain=gained, validation=figures)
        progress.say(validation_line(epoch, self.options.epochs, figures, gain, kept))
        if course.expected and not before.expected:
            progress.say(
                f"expected at the end, from the first half: acceptance length "
                f"{course.expected.length:.3f} +- {course.expected.error:.3f}"
            )
        if course.trend and course.stalls and progress.steps < progress.total_steps:
            progress.say(
                f"stopping early: the last {len(course.recent)} validations gained {course.trend.gain:+.3f} "
                f"with noise {course.trend.noise:.3f}"
            )


def run_digest(
    objective: Objective,
    documents: Sequence[Document],
    batches: Sequence[ValidationBatch],
    options: TrainingOptions,
) -> str:
    """Tells runs apart that must not continue each other; how many ranks there are makes no difference.

    The store's key does this and more, but a stage is also run by hand, into a folder of one's choice.
    Of states, which are many, it looks at the first document's last.
    """
    held_out = [document for batch in batches for document in batch.documents]
    config: Any = objective.draft.config  # of flags and layers that parameters do not show
    return value_digest(
        {
            "options": asdict(options),
            "draft": asdict(config),
            "draft_ids": objective.verifier.draft_ids.tolist(),
            "parameters": {name: list(one.shape) for name, one in objective.draft.state_dict().items()},
            "documents": _content_digest(documents),
            "validation": _content_digest(held_out),
        }
    )


def _content_digest(documents: Sequence[Document]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        digest.update(f"{document.id} {document.prompt_tokens} {len(document.token_ids)}\n".encode())
        digest.update(document.token_ids.numpy().tobytes())
    for document in documents[:1]:
        digest.update(document.hidden_states[-1].float().numpy().tobytes())
    return digest.hexdigest()


def keep_place(
    checkpoints: Checkpoints, state: RunState, progress: Progress, ranks: Ranks, due: bool, stop: bool
) -> None:
    """Between windows: a checkpoint if one is due, and the only place where an interrupted run ends.

    It also ends after the last validation: what then comes is done again, from the checkpoint, in no time.
    """
    if due or stop:
        with progress.pause():
            checkpoints.write(state, progress.reached, ranks)
    if stop:
        progress.say(f"interrupted at step {progress.steps} of {progress.total_steps}; checkpoint written")
        raise KeyboardInterrupt


def save_draft(draft: nn.Module, path: Path, ranks: Ranks = ALONE) -> None:
    """Write the draft's trained tensors in float32, whole or not at all.

    A new file each time: a checkpoint holds on to the one before by a hard link.
    """
    named = ((name, whole(tensor)) for name, tensor in draft.state_dict().items())
    tensors = {name: tensor.float().cpu().contiguous() for name, tensor in named if ranks.leads}
    if ranks.leads:
        partial = path.with_name(path.name + ".partial")
        save_file(tensors, partial)
        partial.replace(path)


def validation_line(
    epoch: float, epochs: int, validation: dict[str, Any] | None, gain: Gain | None, kept: bool
) -> str:
    """One line about a validation."""
    if not validation:
        return f"epoch {epoch:g}/{epochs}: no validation documents"
    if validation["acceptance_length"] is None:
        documents = validation["documents"]
        return f"epoch {epoch:.3g}/{epochs}: nothing could be drafted, validation documents: {documents}"
    positions = " ".join(f"{rate:.3f}" for rate in validation["per_position"])
    gained = f", {gain.gain:+.3f} with noise {gain.noise:.3f}" if gain else ""
    return (
        f"epoch {epoch:.3g}/{epochs}: acceptance length {validation['acceptance_length']:.3f} replayed on "
        f"{validation['documents']} validation documents (positions {positions}){gained}"
        f"{', kept' if kept else ''}"
    )


def forecast_line(outcome: dict[str, Any]) -> str:
    """One line that holds the forecast against what came."""
    foretold = f"{outcome['length']:.3f} +- {outcome['error']:.3f} was expected from the first half"
    if outcome["came"] is None:
        return f"{foretold}; the run ended before its end"
    verdict = "within two errors" if outcome["held"] else "outside of two errors"
    return f"acceptance length {outcome['came']:.3f} at the end; {foretold} ({verdict})"
