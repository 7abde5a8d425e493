"""How vLLM counts acceptance, walked over what is known to match: plain integers, no tensors.

A mean of per-position accuracies over all rows overstates what serving reaches, because serving
does not draft from every row: it skips over runs it got right.  So the walk is replayed.

**What vLLM counts** (``v1/core/sched/scheduler.py``).  The prefill of P prompt tokens yields the
first generated token, x[P], for free; no draft is counted.  Then, per request and step: the draft
proposes K tokens from row r, starting at r = P - 1, where row r has read x[0..r+1] and proposes
x[r+2], ..., x[r+1+K]; the verifier checks them, keeps the leading matches (a of them) and adds its
own next token; one *draft* and a *accepted tokens* are counted, and the next row is r + 1 + a.  The
request ends when its last token, x[T-1], is out: a draft from row r happens only if r + 2 <= T - 1.
    acceptance length = 1 + accepted / drafts          (pooled over all requests)

**At the end of a request** vLLM still proposes K tokens and counts matches beyond x[T-1], before
it cuts them off.  What the verifier would have said there was not captured, so those positions
count here as not accepted: a slight underestimate, at most once a request.  ``undecided`` counts the
positions that could have been accepted on top, which bounds the effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple


class Tally(NamedTuple):
    """Counts of a replay, which add up over documents."""

    drafts: int
    accepted: tuple[int, ...]  # [K] drafts whose position k was accepted
    undecided: int  # positions behind the last captured token that nothing before them ruled out

    @property
    def acceptance_length(self) -> float | None:
        """1 + accepted / drafts; None when nothing was drafted."""
        return 1 + sum(self.accepted) / self.drafts if self.drafts else None

    @property
    def per_position(self) -> list[float] | None:
        """Unconditional acceptance rate of each draft position."""
        return [count / self.drafts for count in self.accepted] if self.drafts else None

    def document(self) -> dict[str, Any]:
        """The counts and the figures drawn from them, for a JSON document."""
        return {
            "acceptance_length": self.acceptance_length,
            "per_position": self.per_position,
            "drafts": self.drafts,
            "accepted": sum(self.accepted),
            "undecided": self.undecided,
        }


class Replayed(NamedTuple):
    """One document's replay."""

    id: str
    looping: bool
    tokens: int  # generated
    tally: Tally


def walk(leading: Sequence[int], prompt_tokens: int) -> Iterator[tuple[int, int]]:
    """The rows that serving drafts from, and how many tokens of each draft are accepted.

    ``leading[r]`` for each of a document's T rows: how many of row r's proposals match before the
    first miss.  Only matches with known tokens count, so ``r + 1 + leading[r] <= T - 1``.
    """
    row = prompt_tokens - 1
    while row + 2 < len(leading):
        yield row, leading[row]
        row += 1 + leading[row]


def leading_matches(matches: Sequence[Sequence[bool]]) -> list[int]:
    """How many proposals of each row of a match matrix [T, K] match before the first miss."""
    return [next((k for k, hit in enumerate(row) if not hit), len(row)) for row in matches]


def tally(matches: Sequence[Sequence[bool]], prompt_tokens: int) -> Tally:
    """Replay one document from its match matrix [T, K]; ``matches[r][k]``: x[r+2+k] is proposed right.

    Entries about tokens behind the document's end must be false.
    """
    steps = len(matches[0]) if matches else 0
    drafts, undecided, accepted = 0, 0, [0] * steps
    for row, count in walk(leading_matches(matches), prompt_tokens):
        drafts += 1
        for position in range(count):
            accepted[position] += 1
        known = len(matches) - 2 - row
        if count == known < steps:
            undecided += steps - known
    return Tally(drafts, tuple(accepted), undecided)


def pool(tallies: Iterable[Tally], steps: int) -> Tally:
    """The sum of tallies over ``steps`` positions."""
    drafts, undecided, accepted = 0, 0, [0] * steps
    for one in tallies:
        drafts, undecided = drafts + one.drafts, undecided + one.undecided
        accepted = [total + count for total, count in zip(accepted, one.accepted, strict=True)]
    return Tally(drafts, tuple(accepted), undecided)


def summary(replayed: Sequence[Replayed], steps: int) -> dict[str, Any]:
    """Pooled figures of all documents, and of those that do not loop."""
    groups = {"all": replayed, "without_looping": [one for one in replayed if not one.looping]}
    return {
        name: {
            "documents": len(group),
            "tokens": sum(one.tokens for one in group),
            **pool((one.tally for one in group), steps).document(),
        }
        for name, group in groups.items()
    }
