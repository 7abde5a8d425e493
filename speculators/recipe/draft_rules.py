"""Rules on a draft that the recipe brings: what its own config says against what is asked of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from speculators.recipe.diagnostics import Diagnostic
from speculators.recipe.hub_cache import model_folder
from speculators.recipe.suggestions import listing
from speculators.recipe.view import View
from speculators.training.architectures import ARCHITECTURES


class Proposes(NamedTuple):
    """How many tokens a draft was made to propose.  ``whole_blocks``: as many every time."""

    tokens: int
    whole_blocks: bool


def brought_depths(view: View) -> Iterator[Diagnostic]:
    """Arms that ask more of the draft than it was made for, where its config is at hand."""
    folder = model_folder(view.get("draft"), view.folder, os.environ)
    made = proposes(folder) if folder else None
    if made is None:
        return
    depths = view.get("benchmark.depths")
    if made.whole_blocks:
        untrained = [one for one in depths if one != made.tokens]
        hint = "every guess of a block depends on its size: such an arm shows another draft"
    else:
        untrained = [one for one in depths if one > made.tokens]
        hint = "later positions will rarely be accepted: leave the depth out"
    if untrained:
        proposed = listing([str(one) for one in untrained], "and")
        message = f"arms propose {proposed} tokens a step, but the draft's config.json says {made.tokens}"
        yield view.problem("warning", "untrained-steps", "benchmark.depths", message, hint)


def proposes(folder: Path) -> Proposes | None:
    """What the draft in ``folder`` says of itself; None where that is nothing, or not what it practised."""
    try:
        config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tokens = config["speculators_config"]["proposal_methods"][0]["speculative_tokens"]
        block = config.get("block_size")
        kind = config["speculators_model_type"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # the package stage says what is wrong with it
    if any(row.practised for row in ARCHITECTURES.values() if row.format.stored_as == kind):
        return None
    if isinstance(block, int):  # one token of a block is the verifier's own
        return Proposes(block - 1, True)
    return Proposes(tokens, False) if isinstance(tokens, int) else None
