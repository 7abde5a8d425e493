"""Rules between the draft, its training, its verifier and the number of proposed tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from speculators.recipe.diagnostics import Diagnostic
from speculators.recipe.suggestions import listing
from speculators.recipe.view import View
from speculators.training.architectures import ARCHITECTURES
from speculators.training.noise import looked_back_over


def layers_ascend(view: View) -> Iterator[Diagnostic]:
    layers = view.get("algorithm.aux_layers")
    for number, (before, layer) in enumerate(pairwise(layers), start=1):
        if layer <= before:
            message = f"aux layer {layer} follows {before}: ids must be ascending and distinct"
            hint = f"write {sorted(set(layers))}"
            yield view.problem("error", "aux-layers", "algorithm.aux_layers", message, hint, item=number)
            return


def layers_exist(view: View) -> Iterator[Diagnostic]:
    assert view.facts
    depth = view.facts.num_hidden_layers
    for number, layer in enumerate(view.get("algorithm.aux_layers")):
        if layer >= depth:
            message = f"aux layer {layer} is outside 1..{depth - 1}: the verifier has {depth} layers"
            hint = f"a usual choice is {sorted({2, depth // 2, depth - 3})}"
            yield view.problem(
                "error", "aux-layers", "algorithm.aux_layers", message, hint, item=number, notes=_origin(view)
            )


def vocabulary_fits(view: View) -> Iterator[Diagnostic]:
    assert view.facts
    size, limit = view.get("algorithm.draft_vocabulary"), view.facts.vocab_size
    if size > limit:
        message = f"draft vocabulary {size} is larger than the verifier's {limit}"
        hint = f"lower it to at most {limit}"
        yield view.problem(
            "error", "draft-vocabulary", "algorithm.draft_vocabulary", message, hint, notes=_origin(view)
        )


def one_norm(view: View) -> Iterator[Diagnostic]:
    if view.get("algorithm.fc_norm") and view.get("algorithm.norm_before_fc"):
        message = "fc_norm and norm_before_fc exclude each other: one norm per state, or one over all"
        yield view.problem(
            "error",
            "norm-flags",
            "algorithm.fc_norm",
            message,
            "set one of them to false",
            uses=("algorithm.norm_before_fc",),
        )


def mask_exists(view: View) -> Iterator[Diagnostic]:
    assert view.facts
    mask, limit = view.get("algorithm.mask_token_id"), view.facts.vocab_size
    if mask >= limit:
        message = f"mask token {mask} is outside 0..{limit - 1}: the verifier has {limit} tokens"
        yield view.problem("error", "mask-token", "algorithm.mask_token_id", message, notes=_origin(view))


def practised_steps(view: View) -> Iterator[Diagnostic]:
    kind, steps = view.get("algorithm.kind"), view.get("training.ttt_steps")
    if kind not in ARCHITECTURES:  # it has no draft model, and its training block is an error by itself
        return
    practised = ARCHITECTURES[kind].practised
    if practised is not None and steps not in (None, practised):
        others = [
            f"'{name}'"
            for name, row in ARCHITECTURES.items()
            if row.practised is None and row.format is ARCHITECTURES[kind].format
        ]
        message = f"kind '{kind}' is trained on {practised} step, training.ttt_steps is {steps}"
        hint = f"leave ttt_steps out, or choose kind {listing(others, 'or')}"
        yield view.problem(
            "error", "untrained-steps", "training.ttt_steps", message, hint, uses=("algorithm.kind",)
        )


def trained_steps(view: View) -> Iterator[Diagnostic]:
    architecture = ARCHITECTURES.get(view.get("algorithm.kind"))
    if architecture is None:
        return
    trained = view.get("training.ttt_steps") or view.get("algorithm.speculative_tokens")
    served = view.get("benchmark.speculative_tokens") or view.get("algorithm.speculative_tokens")
    name = (
        "benchmark.speculative_tokens" if view.get("benchmark.speculative_tokens") else "training.ttt_steps"
    )
    if architecture.whole_blocks and served != trained:
        message = f"serving drafts blocks of {served} tokens, but training makes blocks of {trained}"
        hint = "every guess of a block depends on its size: serve what was trained"
        yield view.problem("warning", "untrained-steps", name, message, hint)
        return
    if trained is None or served <= trained or architecture.practised:
        return
    message = f"serving proposes {served} tokens a step, but training unrolls only {trained}"
    hint = f"raise training.ttt_steps to {served}, or propose {trained}: later positions are rarely accepted"
    yield view.problem("warning", "untrained-steps", name, message, hint)


def trained_depths(view: View) -> Iterator[Diagnostic]:
    architecture = ARCHITECTURES.get(view.get("algorithm.kind"))
    if architecture is None or architecture.practised:
        return
    trained = view.get("training.ttt_steps") or view.get("algorithm.speculative_tokens")
    depths = view.get("benchmark.depths")
    if architecture.whole_blocks:
        untrained, meant = [one for one in depths if one != trained], f"makes blocks of {trained}"
        hint = "every guess of a block depends on its size: such an arm shows another draft"
    else:
        untrained, meant = [one for one in depths if one > trained], f"unrolls only {trained}"
        hint = "later positions will rarely be accepted: raise training.ttt_steps or leave the depth out"
    if untrained:
        proposed = listing([str(one) for one in untrained], "and")
        message = f"arms propose {proposed} tokens a step, but training {meant}"
        yield view.problem("warning", "untrained-steps", "benchmark.depths", message, hint)


def rows_fit_sequence(view: View) -> Iterator[Diagnostic]:
    longest, room = view.get("datagen.max_tokens"), view.get("training.sequence_length")
    if longest >= room and view.get("datagen.prepared") is None:
        message = f"responses of {longest} tokens and their prompts do not fit a sequence of {room}"
        hint = "raise training.sequence_length or lower datagen.max_tokens"
        yield view.problem(
            "warning", "long-rows", "training.sequence_length", message, hint, uses=("datagen.max_tokens",)
        )


def devices_have_work(view: View) -> Iterator[Diagnostic]:
    devices, sequences = view.get("training.devices"), view.get("training.sequences_per_step")
    if isinstance(devices, int) and devices > sequences:
        idle = devices - sequences
        message = f"{devices} devices, but sequences_per_step is {sequences}: {idle} have nothing to do"
        hint = f"set training.sequences_per_step to {devices} or a multiple, or lower training.devices"
        yield view.problem(
            "warning",
            "idle-devices",
            "training.devices",
            message,
            hint,
            uses=("training.sequences_per_step",),
        )


def stop_can_be_judged(view: View) -> Iterator[Diagnostic]:
    patience = view.get("training.early_stop")
    if patience is None:
        return
    if not view.get("datagen.prompts.validation_fraction"):
        message = "early_stop needs validation rows, but datagen.prompts.validation_fraction is 0"
        hint = "hold out a part of the topics, 0.1 for example, or leave early_stop out"
        yield view.problem("error", "early-stop", "training.early_stop", message, hint)
        return
    epochs, each = view.get("training.epochs"), view.get("training.validations_per_epoch")
    needed, used = looked_back_over(patience), ("training.epochs", "training.validations_per_epoch")
    if epochs * each <= needed:
        message = (
            f"early_stop {patience} judges {needed} validations together, the run has {epochs * each}: "
            "it never ends early"
        )
        hint = f"set training.validations_per_epoch to {needed // epochs + 1}, or leave early_stop out"
        yield view.problem("warning", "early-stop", "training.early_stop", message, hint, uses=used)


def ranges_hold(view: View) -> Iterator[Diagnostic]:
    for name, one in view.get("expect").items():
        if "low" not in one and "high" not in one:
            message = f"expect.{name} has neither low nor high: nothing is expected"
            yield view.problem("error", "expectation", f"expect.{name}", message, key=True)
        elif one.get("low", 0) > one.get("high", math.inf):
            message = f"expect.{name}: low {one['low']} is above high {one['high']}"
            yield view.problem("error", "expectation", f"expect.{name}.low", message)


def _origin(view: View) -> tuple[str, ...]:
    return (f"from {view.facts.source}",) if view.facts else ()
