"""The table of cross-field rules: what a schema cannot say.

A rule runs when every value it reads is there and sound; so an error elsewhere hides no rule, and
no rule complains about the consequence of another error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from speculators.recipe import (
    draft_rules,
    engine_rules,
    prompt_rules,
    source_rules,
    training_rules,
    warm_start,
)
from speculators.recipe.diagnostics import Diagnostic
from speculators.recipe.prompt_source import BENCHMARK_FILES
from speculators.recipe.view import View


class Rule(NamedTuple):
    """``reads`` are dotted paths that must be present.

    ``needs_facts`` names what cannot be judged without the verifier's facts.
    """

    reads: tuple[str, ...]
    check: Callable[[View], Iterator[Diagnostic]]
    needs_facts: str = ""


RULES = (
    Rule(("verifier",), source_rules.one_verifier_source),
    Rule(("verifier",), source_rules.source_companions),
    Rule(("verifier.repository",), source_rules.pinned_revision),
    Rule(("verifier.path",), source_rules.verifier_folder),
    Rule(("draft",), source_rules.draft_or_training),
    Rule(("draft",), source_rules.draft_exists),
    Rule(("algorithm.kind",), source_rules.nothing_to_train),
    Rule(("training.init_from",), source_rules.start_exists),
    Rule(("training.init_from", "algorithm.kind"), warm_start.start_fits),
    Rule(("training.init_from",), warm_start.start_of_this_verifier),
    Rule(("datagen.prompts.files",), source_rules.training_files),
    Rule(("datagen.prepared",), source_rules.prepared_data),
    Rule(("datagen.prompts.files", "datagen.prompts.magpie.count"), source_rules.some_prompts),
    Rule(("datagen.responses", "datagen.prompts.magpie.count"), source_rules.kept_responses),
    Rule((BENCHMARK_FILES,), prompt_rules.benchmark_prompts),
    Rule((BENCHMARK_FILES, "benchmark.allow_random_prompts"), prompt_rules.real_prompts),
    Rule(("benchmark.quantised",), source_rules.quantised_exists),
    Rule((BENCHMARK_FILES, "benchmark.requests"), prompt_rules.enough_requests),
    Rule(("algorithm.aux_layers",), training_rules.layers_ascend),
    Rule(
        ("algorithm.aux_layers",),
        training_rules.layers_exist,
        "algorithm.aux_layers against the verifier's depth",
    ),
    Rule(
        ("algorithm.draft_vocabulary",),
        training_rules.vocabulary_fits,
        "algorithm.draft_vocabulary against the verifier's vocabulary",
    ),
    Rule(("algorithm.fc_norm", "algorithm.norm_before_fc"), training_rules.one_norm),
    Rule(
        ("algorithm.mask_token_id",),
        training_rules.mask_exists,
        "algorithm.mask_token_id against the verifier's vocabulary",
    ),
    Rule(("algorithm.kind", "training.ttt_steps"), training_rules.practised_steps),
    Rule(
        (
            "algorithm.kind",
            "algorithm.speculative_tokens",
            "training.ttt_steps",
            "benchmark.speculative_tokens",
        ),
        training_rules.trained_steps,
    ),
    Rule(
        ("algorithm.kind", "algorithm.speculative_tokens", "training.ttt_steps", "benchmark.depths"),
        training_rules.trained_depths,
    ),
    Rule(("draft", "benchmark.depths"), draft_rules.brought_depths),
    Rule(("datagen.max_tokens", "training.sequence_length"), training_rules.rows_fit_sequence),
    Rule(("training.devices", "training.sequences_per_step"), training_rules.devices_have_work),
    Rule(("expect",), training_rules.ranges_hold),
    Rule(
        (
            "training.early_stop",
            "training.epochs",
            "training.validations_per_epoch",
            "datagen.prompts.validation_fraction",
        ),
        training_rules.stop_can_be_judged,
    ),
    Rule(("engine.args",), engine_rules.owned_arguments),
    Rule(("engine.env",), engine_rules.no_secrets),
    Rule(("datagen.max_tokens", "engine.args.max_model_len"), engine_rules.generation_fits_context),
    Rule(("benchmark.max_tokens", "engine.args.max_model_len"), engine_rules.benchmark_fits_context),
    Rule(("engine.args.max_model_len",), engine_rules.context_has_room),
    Rule(
        ("engine.args.max_model_len",),
        engine_rules.context_exists,
        "engine.args.max_model_len against the verifier's context",
    ),
    Rule(("benchmark.concurrency", "engine.args.max_num_seqs"), engine_rules.load_fits_engine),
    Rule(("benchmark.concurrency", "benchmark.requests"), engine_rules.load_is_reached),
    Rule(("benchmark.side_by_side", "executor", "container.gpus"), engine_rules.servers_share_a_processor),
    Rule(("benchmark.side_by_side",), engine_rules.servers_share_memory),
)


def run_rules(view: View) -> Iterator[Diagnostic]:
    """What the rules have to say about ``view``."""
    for rule in RULES:
        if not all(view.has(name) for name in rule.reads):
            continue
        if view.facts or not rule.needs_facts:
            yield from rule.check(view)
        elif source_rules.names_verifier(view):
            yield _not_checked(view, rule)


def _not_checked(view: View, rule: Rule) -> Diagnostic:
    hint = "the verifier's config.json is not at hand: no local folder, no copy in the Hugging Face cache"
    message = f"not checked: {rule.needs_facts}"
    return view.problem("note", "not-checked", rule.reads[0], message, hint)
