"""The samples of a benchmark side by side: plain and another arm of one round at one concurrency."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from speculators.benchmark.load import without
from speculators.benchmark.rounds import BASE, BASE_PLAIN, DRAFT, PLAIN
from speculators.serving.metrics import SpecCounters, pooled

Sample = dict[str, Any]


class Pair(NamedTuple):
    """Two arms of one round at one concurrency; ``draft`` is the one that speculates."""

    round: int
    concurrency: int
    plain: Sample
    draft: Sample

    @property
    def speedup(self) -> float | None:
        """Throughput of the speculating arm over plain's; None where one has none."""
        plain, draft = (one["output_tokens_per_second"] for one in (self.plain, self.draft))
        return draft / plain if plain and draft else None

    @property
    def looping(self) -> frozenset[str]:
        """Prompts whose plain output loops: the verifier's own habit, so the same for both arms."""
        return frozenset(row["id"] for row in self.plain["requests"] if row["looping"])

    def without_looping(self) -> Pair:
        """The same comparison over the prompts that do not loop."""
        looping = self.looping
        return self._replace(plain=without(self.plain, looping), draft=without(self.draft, looping))


def pair_up(samples: Iterable[Sample], speculating: str = DRAFT, plain: str = PLAIN) -> list[Pair]:
    """The samples as pairs, by round and concurrency; a load without its partner is left out.

    ``plain``: the arm in plain's place.
    """
    by_place = {(one["round"], one["concurrency"], one["arm"]): one for one in samples}
    return [
        Pair(number, concurrency, one, by_place[number, concurrency, speculating])
        for (number, concurrency, arm), one in by_place.items()
        if arm == plain and (number, concurrency, speculating) in by_place
    ]


def base_pairs(samples: Sequence[Sample]) -> list[Pair]:
    """The base arm over plain serving with its own engine: an arm of its own where it is not the draft's."""
    own = any(one["arm"] == BASE_PLAIN for one in samples)
    return pair_up(samples, BASE, BASE_PLAIN if own else PLAIN)


def counters_of(sample: Sample) -> SpecCounters | None:
    """The engine's counters over one load."""
    return _counters(sample["counters"])


def all_steps(sample: Sample) -> SpecCounters | None:
    """``counters_of`` with every step of the verifier counted, also those in which nothing was proposed.

    A method that only repeats often proposes nothing, and the engine's counters leave such a step out.  The
    first token of an answer comes from its prompt; every further one is a step's own or an accepted one.
    """
    counted = counters_of(sample)
    if counted is None:
        return None
    further = sample["output_tokens"] - sample["completed"]
    return counted._replace(drafts=max(counted.drafts, further - counted.accepted))


def request_counters(sample: Sample) -> SpecCounters | None:
    """The per-request counts of one load, pooled; None if not reported."""
    chosen = [request_spec(row) for row in sample["requests"]]
    known = [one for one in chosen if one is not None]
    return pooled(known) if len(known) == len(chosen) else None


def request_spec(row: dict[str, Any]) -> SpecCounters | None:
    """The counts of one request; None if not reported."""
    return _counters(row["spec"])


def _counters(document: dict[str, Any] | None) -> SpecCounters | None:
    if document is None:
        return None
    return SpecCounters(
        drafts=document["drafts"],
        draft_tokens=document["draft_tokens"],
        accepted=document["accepted"],
        per_position=tuple(document["per_position"]),
    )
