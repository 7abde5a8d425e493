"""A probe from end to end: a draft's folder, its verifier and a text become findings and a document."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from speculators.checkpoint.config import CONFIG_NAME, completed
from speculators.checkpoint.folder import read_object, weights_of
from speculators.checkpoint.tensors import canonical_name
from speculators.checkpoint.verifier_layout import verifier_text
from speculators.checkpoint.verifier_weights import load_verifier_weights
from speculators.checkpoint.weights_file import mapped, read_header
from speculators.errors import RecipeError, StageError
from speculators.inspection.blame import EXPORT, Blame, blame
from speculators.inspection.draft import FORMAT_KEYS, require_model
from speculators.inspection.foreign import read_foreign
from speculators.inspection.neighbours import layer_ids
from speculators.inspection.probe import Probe, Texts, Tried, probe, resembling

SHOWN = 5  # neighbours that a document lists


class Probed(NamedTuple):
    """``blame`` and ``alike`` need what was served; ``alike``: the neighbour that guesses as is served."""

    result: Probe
    texts: int
    blame: Blame | None
    alike: Tried | None

    def document(self) -> dict[str, Any]:
        """For reports and ``--json``."""
        result, best = self.result, self.result.best
        given = result.given
        return {
            "texts": self.texts,
            "tokens": result.tokens,
            "seconds": round(result.seconds, 1),
            "first": given.first if given else None,
            **(given.tally.document() if given else {"not_guessed": result.why_not}),
            "neighbours": sum(one.score is not None for one in result.tried),
            "not_tried": [
                {"change": one.neighbour.change, "why": one.why_not} for one in result.tried if one.why_not
            ],
            "best": _shown(best) if best else None,
            "nearest": [_shown(one) for one in result.tried[:SHOWN] if one.score is not None],
            "blame": self.blame.document() if self.blame else None,
            "served_as": self.alike.neighbour.change if self.alike else None,
            "said": self.said,
        }

    @property
    def said(self) -> str:
        """The blame in words, with what the neighbours tell of it."""
        result, best = self.result, self.result.best
        whose = f"{self.blame.half.capitalize()}: {self.blame.said}." if self.blame else "Not told."
        tried = sum(one.score is not None for one in result.tried)
        text = f"{whose} {tried} drafts one mistake away were tried on {result.tokens} tokens"
        if self.alike:
            text += f"; it is served as if {self.alike.neighbour.change}"
        if best and best.score:
            first = f"{best.score.first:.0%} of first tokens"
            text += f"; {best.neighbour.change} guesses better ({first}): it was trained for that"
        else:
            text += "; none guesses better: the config is the one of the weights"
        return text + "."


def _shown(one: Tried) -> dict[str, Any]:
    assert one.score is not None
    return {"change": one.neighbour.change, "first": one.score.first, "gain": one.gain, "better": one.better}


def probe_draft(
    folder: Path,
    verifier_dir: Path,
    texts: Texts,
    served: Mapping[str, Any] | None = None,
    steps: int | None = None,
) -> Probed:
    """Probe the draft in ``folder``.

    ``served``: acceptance figures of serving it on these texts; ``steps``: tokens a draft, the draft's own
    unless given.

    Raises:
        StageError: the draft or its verifier cannot be read.
    """
    document, tensors = whole_draft(folder, verifier_dir)
    text = verifier_text(read_object(verifier_dir / CONFIG_NAME))
    weights = load_verifier_weights(verifier_dir).to(None, torch.float32)
    tokens = steps or int(document["speculators_config"]["proposal_methods"][0]["speculative_tokens"])
    result = probe(document, tensors, texts, text, weights, tokens)
    split = alike = None
    if served is not None and result.given is not None:
        split = blame(result.given.tally.document(), served)
        if split is not None and split.half == EXPORT:
            alike = resembling(result, served.get("per_position") or ())
    return Probed(result, len(texts.documents), split, alike)


def whole_draft(folder: Path, verifier_dir: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The draft as engines take it: config with nothing left open, tensors by canonical names.

    Raises:
        StageError: it cannot be read.
    """
    document = read_object(folder / CONFIG_NAME)
    depth = verifier_text(read_object(verifier_dir / CONFIG_NAME)).get("num_hidden_layers")
    if not isinstance(depth, int):
        hint = "write num_hidden_layers there: neighbouring layers are told by how many there are"
        place = verifier_dir / CONFIG_NAME
        raise StageError(f"{place}: does not say how many layers it has", hint=hint, rule="source-config")
    if FORMAT_KEYS & document.keys():
        full, _ = completed(document, depth)
        pieces: Mapping[str, Any] = read_header(weights_of(folder))[0]
    else:
        plan = read_foreign(folder, verifier_dir).plan
        if plan is None:
            raise StageError(
                f"{folder}: cannot be read as a draft",
                hint="'speculators inspect DIR' without --probe says why",
                rule="source-unreadable",
            )
        full, pieces = plan.document, plan.pieces
    return full, {canonical_name(name): mapped(piece) for name, piece in pieces.items()}


def named_verifier(folder: Path, given: Path | None) -> Path:
    """The verifier to probe with: the given one, or the folder that the config names.

    Raises:
        RecipeError: there is neither.
        StageError: its config cannot be read.
    """
    if given is not None:
        require_model(given)
        return given
    block = read_object(folder / CONFIG_NAME).get("speculators_config")
    name = (block.get("verifier") or {}).get("name_or_path") if isinstance(block, dict) else None
    if isinstance(name, str) and Path(name).is_dir():
        require_model(Path(name))
        return Path(name)
    raise RecipeError(
        f"{folder}: the probe needs the verifier, and {CONFIG_NAME} names {name!r}, which is no folder here",
        hint="--verifier FOLDER or owner/name",
        rule="no-verifier",
    )


def neighbouring_layers(document: Mapping[str, Any], depth: int) -> list[int]:
    """The layers whose states the neighbours of a draft read, ascending, and the last one."""
    _, ids = layer_ids(document)
    near = {layer + step for layer in ids for step in (-1, 0, 1)}
    return sorted({layer for layer in near if 0 <= layer <= depth} | {depth})
