"""What one training step of a recipe costs on paper, for ``speculators plan``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from speculators.checkpoint.eagle3 import Eagle3Config
from speculators.quantities import size
from speculators.recipe.facts import find_facts
from speculators.recipe.recipe import Recipe
from speculators.recipe.warm_start import planned_shape
from speculators.training.step_cost import Rows, memory, operations

KIND = "eagle3"  # the formulas are of its way
SHARES = (1.0, 0.6, 0.3, 0.1)  # of the tokens that may be taught: nobody knows before the answers are there


class Cost(NamedTuple):
    """Of a packed sequence of ``tokens``, when ``taught`` of them are supervised."""

    tokens: int
    taught: float
    operations_per_token: float  # in products with weights, forward and backward
    memory: int | None  # bytes on a GPU at the most; None where products are not in half precision


def training_costs(recipe: Recipe, environ: Mapping[str, str]) -> list[Cost]:
    """By supervised share; nothing where nothing is trained, another kind is, or a shape is not at hand: the
    verifier's, or the draft's that training starts from."""
    data = recipe.data
    if data.get("draft") or data["algorithm"]["kind"] != KIND or data["algorithm"]["layers"] != 1:
        return []
    place = recipe.path.absolute().parent
    facts = find_facts(data["verifier"], place, environ)
    shape = planned_shape(data, place, environ, facts) if facts else None
    if not isinstance(shape, Eagle3Config):
        return []
    algorithm, training = data["algorithm"], data["training"]
    steps = training["ttt_steps"] or algorithm["speculative_tokens"]
    tokens, halves = training["sequence_length"], training["precision"] == "bfloat16"
    several, costs = training["sequences_per_step"] > 1, []
    for share in SHARES:
        rows = Rows.of(tokens, share, steps)
        peak = memory(shape, rows, several=several).peak if halves else None
        costs.append(Cost(tokens, share, operations(shape, rows) / tokens, peak))
    return costs


def told(costs: list[Cost]) -> list[str]:
    """Lines for the end of a plan."""
    if not costs:
        return []
    counted = (
        " (memory with AdamW on one GPU; Muon, checkpointing and fsdp take less)" if costs[0].memory else ""
    )
    lines = [f"a training step on {costs[0].tokens} tokens, on paper{counted}:"]
    for one in costs:
        line = f"  {one.taught:4.0%} of them taught: {one.operations_per_token / 1e9:.3g} GFLOP a token"
        lines.append(line if one.memory is None else f"{line}, {size(one.memory)} of a GPU at the most")
    return lines


def documents(costs: list[Cost]) -> list[dict[str, Any]]:
    """For the plan's JSON document."""
    return [one._asdict() for one in costs]
