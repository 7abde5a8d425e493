"""``inspect --probe``: let the draft guess what its verifier really said, and see what would guess better.

Guesses are made in plain PyTorch on the verifier's own greedy text, so no engine is in it: what is low here
is low because of training, data, or a config that is not the one of the training.  The last is told from the
others by trying every draft one mistake away (``neighbours``): the one that restores accuracy names it.

Differences are taken document by document, since one text is easier than another; a neighbour counts as
better only beyond their spread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch

from speculators.checkpoint.read import loaded_draft
from speculators.checkpoint.verifier_weights import VerifierWeights
from speculators.datagen.shards import Document
from speculators.errors import SpeculatorsError
from speculators.inspection.findings import LIKELY, Finding
from speculators.inspection.neighbours import Given, Neighbour, Tensors, layer_ids, neighbours
from speculators.inspection.replay import matched, questioned
from speculators.training.acceptance import Tally, pool, tally

#: A neighbour is better by at least so many tokens a row, and by so many standard errors of the difference.
GAIN, ERRORS = 0.03, 2.0
#: Rates of each position that are nearer than this are alike.
ALIKE = 0.05


class Texts(NamedTuple):
    """What the verifier said, greedily, with the states of some of its layers.

    ``layers``: of the columns of each document's ``hidden_states`` [T, L, H]; the last is its depth.
    """

    documents: Sequence[Document]
    layers: tuple[int, ...]

    def reading(self, ids: Sequence[int]) -> list[Document]:
        """The documents as a draft of these layers reads them.

        Raises:
            SpeculatorsError: one of the layers was not captured.
        """
        if absent := [one for one in ids if one not in self.layers]:
            raise SpeculatorsError(f"layer {absent[0]} was not captured")
        columns = [self.layers.index(one) for one in ids] + [len(self.layers) - 1]
        return [one._replace(hidden_states=one.hidden_states[:, columns]) for one in self.documents]


class Score(NamedTuple):
    """``per_row``: tokens guessed right before the first miss, of each document's rows on average."""

    rows: int
    first: float  # share of rows whose first guess is right
    per_row: tuple[float, ...]
    tally: Tally

    @property
    def mean(self) -> float:
        return fmean(self.per_row)


class Tried(NamedTuple):
    """A neighbour and what it scored; ``why_not`` where it could not be tried."""

    neighbour: Neighbour
    score: Score | None
    gain: float = 0.0  # tokens a row over the given draft's
    better: bool = False
    why_not: str = ""


class Probe(NamedTuple):
    """``tried`` has the best first."""

    given: Score | None
    why_not: str
    tried: list[Tried]
    tokens: int
    seconds: float

    @property
    def best(self) -> Tried | None:
        return self.tried[0] if self.tried and self.tried[0].better else None


def probe(
    document: Mapping[str, Any],
    tensors: Tensors,
    texts: Texts,
    text_config: Mapping[str, Any],
    weights: VerifierWeights,
    steps: int,
) -> Probe:
    """Score the draft and its neighbours.

    ``document``: complete; ``text_config`` and ``weights``: the verifier's; ``steps``: tokens a draft.
    """
    started = time.monotonic()
    given, why_not = _scored(document, tensors, texts, weights, steps)
    tried = []
    for one in neighbours(Given(document, tensors, text_config, weights)):
        score, unable = _scored(one.document, one.tensors, texts, weights, steps)
        gain, better = gained(given, score) if score else (-math.inf, False)
        tried.append(Tried(one, score, gain, better, unable))
    tried.sort(key=lambda one: (not one.better, -one.gain))  # stable: of equals the first in order
    tokens = sum(len(one.token_ids) for one in texts.documents)
    return Probe(given, why_not, tried, tokens, time.monotonic() - started)


def _scored(
    document: Mapping[str, Any], tensors: Tensors, texts: Texts, weights: VerifierWeights, steps: int
) -> tuple[Score | None, str]:
    """The score, or why there is none."""
    _, ids = layer_ids(document)
    try:
        with torch.inference_mode():
            objective = questioned(loaded_draft(document, tensors), weights, steps)
            guessed = matched(objective, texts.reading(ids), steps)
            return score([(document, matches) for document, _, matches in guessed], steps), ""
    except SpeculatorsError as error:
        return None, error.message
    except (IndexError, RuntimeError) as error:  # ids beyond the vocabulary, shapes that do not fit
        return None, str(error).split("\n", 1)[0]


def score(matches: Sequence[tuple[Document, torch.Tensor]], steps: int) -> Score:
    """From pairs of document and match matrix [T, steps]; documents without a row that drafts are skipped."""
    rows, first, per_row, tallies = 0, 0, [], []
    for document, matrix in matches:
        tallies.append(tally(matrix.tolist(), document.prompt_tokens))
        drafting = matrix[document.prompt_tokens - 1 : len(matrix) - 2]  # rows that serving could draft from
        if not len(drafting):
            continue
        leading = drafting.int().cumprod(dim=1).sum(dim=1)  # [R]
        rows, first = rows + len(drafting), first + int(drafting[:, 0].sum())
        per_row.append(float(leading.float().mean()))
    return Score(rows, first / max(rows, 1), tuple(per_row) or (0.0,), pool(tallies, steps))


def gained(given: Score | None, other: Score) -> tuple[float, bool]:
    """Tokens a row that ``other`` guesses more, and whether that is beyond chance."""
    if given is None:  # as it stands it cannot draft at all
        return other.mean, other.mean > GAIN
    differences = [after - before for before, after in zip(given.per_row, other.per_row)]
    gain = fmean(differences)
    if len(differences) < 2:
        return gain, False
    error = stdev(differences) / math.sqrt(len(differences))
    return gain, gain > max(GAIN, ERRORS * error)


def finding(result: Probe) -> Finding | None:
    """What the probe found wrong with the config or the export; None where no neighbour is better."""
    best = result.best
    if best is None or best.score is None:
        return None
    before = f"{result.given.first:.0%}" if result.given else f"none ({result.why_not})"
    others = [one.neighbour.change for one in result.tried[1:] if one.better]
    also = f"; better too: {', '.join(others)}" if others else ""
    return Finding(
        best.neighbour.trap,
        "a neighbour drafts better",
        f"with {best.neighbour.change} {best.score.first:.0%} of first tokens are right instead of {before}, "
        f"{best.gain:+.2f} tokens a row{also}",
        "the draft was trained for that, and something between training and this folder changed it",
        LIKELY,
        f"write it: {best.neighbour.change}",
    )


def resembling(result: Probe, served: Sequence[float]) -> Tried | None:
    """The neighbour that guesses as is served, where the draft itself guesses otherwise.

    It is what the engine does instead of what the config says.

    ``served``: acceptance rate of each position.
    """

    def distance(one: Score | None) -> float:
        rates = one.tally.per_position if one else None
        return max((abs(a - b) for a, b in zip(rates, served)), default=math.inf) if rates else math.inf

    nearest = min(result.tried, key=lambda one: distance(one.score), default=None)
    if nearest is None or distance(nearest.score) > ALIKE:
        return None
    return nearest if distance(result.given) > 2 * ALIKE else None
