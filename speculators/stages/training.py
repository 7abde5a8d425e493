"""Stage ``training``: captured hidden states become a trained draft.

Leaves ``draft.safetensors`` (float32, checkpoint names, without the frozen ends),
``vocabulary.safetensors`` (``draft_ids`` [Vd] int64) and ``metrics.jsonl``.

Everything before the loop is cheap beside it and made anew by each attempt; the loop continues from
its checkpoint.  The result is then that of an undisturbed run; only times and speeds differ.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch.distributed import is_torchelastic_launched

from speculators.checkpoint.shape import DraftConfig
from speculators.checkpoint.verifier_weights import load_verifier_weights
from speculators.checkpoint.vocabulary import coverage, select_draft_ids, token_frequencies
from speculators.datagen.shards import Document, read_documents, read_index
from speculators.documents import write_json
from speculators.errors import MachineError, StageError
from speculators.stages.documents import StageInput
from speculators.stages.trust import Say, certificate, chosen_way, doubt_of, judge_torchrun
from speculators.training.architectures import ARCHITECTURES
from speculators.training.baselines import bigram_matches, bigram_successors
from speculators.training.files import ENDS_NAME, SHAPE_NAME, VOCABULARY_NAME
from speculators.training.interrupts import deferred_interrupts, orphaned
from speculators.training.launch import launch
from speculators.training.loop import TrainingOptions, train
from speculators.training.metrics import Tracker
from speculators.training.objective import Objective
from speculators.training.packing import Fitted, fit
from speculators.training.ranks import ALONE, Ranks, joined, local_device
from speculators.training.resume import Checkpoints
from speculators.training.start import find_start, load_into, own_ends
from speculators.training.validation import Judged, ValidationBatch, agreement, evaluate, judge, prepare
from speculators.training.verifier import FrozenVerifier

CONTINUES = True
#: Of the ``training`` block: where and how it is done, which is no part of what is learned; and a name, of
#: whose weights the digest is.
HOW = ("devices", "parallelism", "trackers", "init_from")


class Data(NamedTuple):
    """The documents of both splits, cut to the sequence length."""

    train: Fitted
    validation: Fitted


def run(step: StageInput) -> dict[str, Any] | None:
    """Train the recipe's draft on the captured states, on as many devices as the recipe asks for.

    By hand, ``torchrun --nproc-per-node N -m speculators.stages INPUT`` decides how many there are; then
    only the first process has a result.
    """
    block, trusted = step.values["training"], certificate(step)
    if is_torchelastic_launched():
        leads = int(os.environ["RANK"]) == 0
        judge_torchrun(trusted, block["parallelism"], int(os.environ["WORLD_SIZE"]), leads)
        result = in_rank(step)
        return result if leads else None
    count = rank_count(block["devices"], block["sequences_per_step"], torch.cuda.device_count())
    if count > 1 and (doubt := doubt_of(trusted, block["parallelism"])):
        print(f"training on one device: {doubt}")
        count = 1
    return train_draft(step, ALONE) if count == 1 else launch(in_rank, step, count, step.work)


def rank_count(wanted: int | str, sequences_per_step: int, gpus: int) -> int:
    """How many processes train: one for each device.

    Raises:
        MachineError: there are not so many GPUs.
    """
    if wanted == "auto":
        count = max(1, min(gpus, sequences_per_step))
        if count < gpus:
            print(
                f"training on {count} of {gpus} GPUs: a step has {sequences_per_step} sequences; "
                "more of them (training.sequences_per_step) can be run side by side"
            )
        return count
    if gpus and int(wanted) > gpus:
        raise MachineError(
            f"training.devices is {wanted}, this machine has {gpus} GPUs",
            hint=f"set training.devices to {gpus}, or to auto",
            rule="no-gpu",
        )
    return int(wanted)  # without a GPU: processes that share the CPU


def in_rank(step: StageInput) -> dict[str, Any]:
    """One of several processes that train together."""
    with joined(local_device()) as ranks:
        return train_draft(step, ranks)


class Taught(NamedTuple):
    """All that the loop needs, and what is told of it."""

    objective: Objective
    documents: list[Document]
    held_out: list[ValidationBatch]
    facts: dict[str, Any]  # of the result: what was known before the first step
    published: Judged | None  # a draft that is trained further, as it comes


def train_draft(step: StageInput, ranks: Ranks) -> dict[str, Any]:
    """Everything from the captured states to the trained draft; each of the ``ranks`` does it."""
    options, say = training_options(step.values), partial(print, flush=True) if ranks.leads else silent
    taught = prepare_draft(step, options, say, ranks)
    options = replace(options, started_from=taught.facts["started_from"])
    checkpoints, parallelism = Checkpoints(step.work), step.values["training"]["parallelism"]
    with deferred_interrupts() as interrupted:
        trained = train(
            taught.objective, taught.documents, taught.held_out, options, step.output, checkpoints,
            say, lambda: interrupted() or orphaned(), ranks, parallelism, partial(followers, step),
            taught.published,
        )  # fmt: skip
    return {
        **taught.facts,
        "best_epoch": trained.course.best_epoch,
        "epochs": options.epochs,
        "optimiser_steps": trained.optimiser_steps,
        "stopped_early": trained.stopped_early,
        "validation": trained.course.best,
        "forecast": trained.course.outcome(),
        "tokens_per_second": trained.tokens / max(trained.training_seconds, 1e-9),
        "training_seconds": trained.training_seconds,
        # Recorded: sums differ in their last bits with both.
        "threads": torch.get_num_threads(),
        "devices": ranks.count,
    }


def prepare_draft(step: StageInput, options: TrainingOptions, say: Say, ranks: Ranks) -> Taught:
    """The draft before its first step, with its data; leaves vocabulary and shape in the output."""
    algorithm, facts = step.values["algorithm"], step.result_of("verifier")["facts"]
    architecture = ARCHITECTURES[algorithm["kind"]]
    folder = next(iter(step.files.get("training.init_from", ())), None)
    wanted = architecture.format.config.for_verifier(facts, algorithm)
    start = find_start(folder, wanted, algorithm["kind"], facts["num_hidden_layers"])
    data = read_data(step, start.config, facts["num_hidden_layers"], options.sequence_length, say, ranks)

    frequencies = token_frequencies(data.train.documents, wanted.vocab_size)  # [V]
    selected = start.loaded.draft_ids if start.loaded else None
    if selected is None:
        selected = select_draft_ids(frequencies, wanted.draft_vocab_size)
    if ranks.leads:
        save_file({"draft_ids": selected}, step.output / VOCABULARY_NAME)
        write_json(step.output / SHAPE_NAME, asdict(start.config))
        (step.output / ENDS_NAME).unlink(missing_ok=True)  # an earlier attempt's, from another start
    covered = vocabulary_facts(frequencies, selected, data, start.config)
    say(f"draft vocabulary: {len(selected)} tokens cover {covered['train_coverage']:.2%} of responses")

    device, implementation = local_device(), architecture.load()
    way = chosen_way(implementation, certificate(step), options, say)
    weights = load_verifier_weights(step.inputs["verifier"] / "model")
    verifier = FrozenVerifier.of(weights, selected, way.teaching.dtype, device)
    batches = prepare(verifier, data.validation.documents, options.sequence_length)
    torch.manual_seed(options.seed)
    draft = implementation.model(start.config).to(device)
    if start.loaded:
        load_into(draft, start.loaded)
        if own := own_ends(start.loaded, verifier):
            verifier = verifier.with_ends(own)
            say(f"{' and '.join(own)}: the draft's own, not the verifier's; kept as published")
            if ranks.leads:
                save_file(own, step.output / ENDS_NAME)
    objective = way.objective(draft, verifier, way.teaching)
    parameters = sum(parameter.numel() for parameter in draft.parameters())
    judged = baselines(objective, data, batches, options.speculative_tokens, start.name, say, ranks)
    told = {
        "parameters": parameters,
        "started_from": start.digest,
        "objective": "oracle" if way.objective is implementation.oracle else "fast",
        "mismatches": way.mismatches,
        "verifier_agreement": agreement(batches),
        "baselines": [{"name": name, **one.figures} for name, one in judged.items()],
        "vocabulary": covered,
        "data": {"train": data_facts(data.train), "validation": data_facts(data.validation)},
    }
    say(
        f"training {parameters / 1e6:.1f}M parameters on {device.type} with {torch.get_num_threads()} threads"
        + (f" in each of {ranks.count} processes" if ranks.count > 1 else "")
    )
    return Taught(
        objective, data.train.documents, batches, told, judged.get(start.name) if start.loaded else None
    )


def followers(step: StageInput, done: int) -> Sequence[Tracker]:
    """The recipe's trackers, from the step after ``done`` on."""
    names = step.values["training"]["trackers"]
    if not names:
        return ()
    from speculators.training.trackers import open_trackers

    print(f"{' and '.join(names)} below {step.tracks}", flush=True)
    blocks = {name: step.values[name] for name in ("algorithm", "training")}
    settings = {
        f"{block}.{name}": value for block, values in blocks.items() for name, value in values.items()
    }
    return open_trackers(names, step.tracks, settings, done)


def training_options(values: dict[str, Any]) -> TrainingOptions:
    """The ``training`` block; unless it or the architecture says other, as many steps are practised
    as will be drafted.
    """
    practised = ARCHITECTURES[values["algorithm"]["kind"]].practised
    block = {name: value for name, value in values["training"].items() if name not in HOW}
    block["speculative_tokens"] = values["algorithm"]["speculative_tokens"]
    block["anchors"] = values["algorithm"].get("anchors")
    block["ttt_steps"] = block.get("ttt_steps") or practised or block["speculative_tokens"]
    return TrainingOptions(**block)


def silent(_: str) -> None:
    """What ranks say that do not lead."""


def read_data(
    step: StageInput, config: DraftConfig, depth: int, sequence_length: int, say: Say, ranks: Ranks
) -> Data:
    """Both splits, after a check that the captured layers are the ones this draft reads."""
    folder = step.inputs["hidden_states"]
    captured, wanted = read_index(folder)["layers"], [*config.aux_layers, depth]
    if captured != wanted:
        raise StageError(
            f"{folder}: holds layers {captured}, this draft needs {wanted}",
            hint="capture the hidden states again with the recipe's aux_layers",
            rule="captured-layers",
        )
    # Whole shards are read for their digests: once is enough.
    splits = [list(read_documents(folder, split, check=ranks.leads)) for split in Data._fields]
    data = Data(*(fit(split, sequence_length) for split in splits))
    if not data.train.documents:
        raise StageError(
            f"{folder}: no training document has a generated token within {sequence_length} tokens",
            hint="generate more responses, or raise training.sequence_length",
            rule="no-training-data",
        )
    for name, fitted in data._asdict().items():
        if fitted.cut or fitted.unsupervised:
            say(
                f"{name}: {fitted.cut} documents cut at {sequence_length} tokens "
                f"({fitted.lost_tokens} lost), {fitted.unsupervised} left out without a token to learn"
            )
    return data


def vocabulary_facts(
    frequencies: torch.Tensor, draft_ids: torch.Tensor, data: Data, config: DraftConfig
) -> dict[str, Any]:
    """How much of what was generated the draft can say; the validation figure is the honest one."""
    unseen = token_frequencies(data.validation.documents, config.vocab_size)
    return {
        "size": len(draft_ids),
        "tokens_seen": int((frequencies > 0).sum()),
        "train_coverage": coverage(frequencies, draft_ids),
        "validation_coverage": coverage(unseen, draft_ids) if data.validation.documents else None,
    }


def data_facts(fitted: Fitted) -> dict[str, int]:
    """Counts of one split."""
    return {
        "documents": len(fitted.documents),
        "tokens": sum(len(document.token_ids) for document in fitted.documents),
        "generated_tokens": sum(
            max(0, len(document.token_ids) - document.prompt_tokens) for document in fitted.documents
        ),
        "cut": fitted.cut,
        "lost_tokens": fitted.lost_tokens,
        "unsupervised": fitted.unsupervised,
    }


def baselines(
    objective: Objective,
    data: Data,
    batches: Sequence[ValidationBatch],
    steps: int,
    start: str,
    say: Say,
    ranks: Ranks,
) -> dict[str, Judged]:
    """How validation judges what costs no training: a bigram table, and the draft at its ``start``."""
    if not batches:
        return {}
    successors = bigram_successors(data.train.documents, len(objective.verifier.embedding))
    bigram = judge(batches, bigram_matches(successors, batches, steps), steps)
    found = {"bigram": bigram, start: evaluate(objective, batches, steps, ranks)}
    for name, one in found.items():
        length = one.figures["acceptance_length"]
        said = "nothing could be drafted" if length is None else f"acceptance length {length:.3f}"
        say(f"baseline {name}: {said}")
    return found
