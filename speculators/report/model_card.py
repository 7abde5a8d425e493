"""The README.md of a checkpoint: what it is, how to serve it, what is known about it.

Written from records only.  A figure that was not measured does not appear, and the acceptance
length is called what it is: predicted on validation documents, not served.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import yaml

from speculators.training.architectures import FORMATS


class CardFacts(NamedTuple):
    """All that a card may say; ``training``: the training stage's result, None for a draft brought along."""

    name: str
    verifier_id: str
    verifier_digest: str
    verifier_repository: str | None
    algorithm: str
    speculative_tokens: int
    aux_layers: tuple[int, ...]
    draft_vocabulary: int
    vocabulary: int
    weights_sha256: str
    training: dict[str, Any] | None


def model_card(facts: CardFacts) -> str:
    """The card's Markdown with its YAML front matter."""
    sections = (front_matter(facts), introduction(facts), serving(facts), shape(facts), training(facts))
    return "\n".join(section for section in sections if section)


def front_matter(facts: CardFacts) -> str:
    """What the hub reads.  ``base_model`` must be a hub repository: other sources go without it."""
    fields: dict[str, Any] = {"library_name": "speculators"}
    if facts.verifier_repository:
        fields["base_model"] = facts.verifier_repository
        fields["base_model_relation"] = "adapter"
    fields["tags"] = ["speculators", "speculative-decoding", facts.algorithm, "vllm"]
    return f"---\n{yaml.safe_dump(fields, sort_keys=False)}---\n"


def introduction(facts: CardFacts) -> str:
    method = FORMATS[facts.algorithm].label
    return (
        f"# {facts.name}\n\n"
        f"A draft model ({method}) for speculative decoding with the verifier `{facts.verifier_id}`. "
        "It proposes tokens that the verifier checks, so greedy output stays the verifier's own.\n"
    )


def serving(facts: CardFacts) -> str:
    verifier = facts.verifier_repository or "VERIFIER"
    note = (
        "The first form takes the verifier from `speculators_config.verifier.name_or_path` in `config.json`."
    )
    if not facts.verifier_repository:
        note += " That must be the verifier's folder, as must `VERIFIER` in the second form."
    config = json.dumps(
        {
            **FORMATS[facts.algorithm].serve,
            "model": "DIR",
            "num_speculative_tokens": facts.speculative_tokens,
        }
    )
    return (
        "## Serving\n\n"
        "With `DIR` this folder:\n\n"
        "```bash\n"
        f"vllm serve DIR --served-model-name {facts.name}\n"
        "# or, naming both models:\n"
        f"vllm serve {verifier} --speculative-config '{config}'\n"
        "```\n\n"
        f"{note}\n"
    )


def shape(facts: CardFacts) -> str:
    layers = ", ".join(map(str, facts.aux_layers))
    states = f"residual stream after decoder layers {layers}" if layers else "last layer, normed"
    return (
        "## Checkpoint\n\n"
        f"- drafts {facts.speculative_tokens} tokens at a time\n"
        f"- reads the verifier's {states}\n"
        f"- can say {facts.draft_vocabulary} of the verifier's {facts.vocabulary} tokens\n"
        f"- verifier digest `{facts.verifier_digest}`\n"
        f"- weights sha256 `{facts.weights_sha256}`\n"
    )


def training(facts: CardFacts) -> str:
    """Training facts, or where the draft came from if it was not trained here."""
    result = facts.training
    if result is None:
        return "## Training\n\nBrought along ready-made; nothing is recorded here about its training.\n"
    data, vocabulary = result["data"]["train"], result["vocabulary"]
    steps, kept = result["optimiser_steps"], result["best_epoch"]
    lines = [
        f"- {data['documents']} documents with {data['generated_tokens']} tokens that the verifier generated",
        f"- {result['epochs']} epochs, {steps} optimiser steps; "
        + (f"epoch {kept:g} kept" if kept else "none was better than the published draft, which is kept"),
        f"- the draft vocabulary covers {vocabulary['train_coverage']:.1%} of the training responses' tokens"
        + (
            f", {vocabulary['validation_coverage']:.1%} of the validation responses'"
            if vocabulary["validation_coverage"] is not None
            else ""
        ),
    ]
    validation = result["validation"]
    if validation and validation["acceptance_length"] is not None:
        positions = ", ".join(f"{rate:.3f}" for rate in validation["per_position"])
        lines.append(
            f"- predicted acceptance length {validation['acceptance_length']:.2f} (positions {positions}), "
            f"by replaying greedy drafting on {validation['documents']} validation documents; not served"
        )
    return "## Training\n\n" + "\n".join(lines) + "\n"
