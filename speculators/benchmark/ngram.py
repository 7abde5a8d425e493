"""Prompt lookup, replayed: what the n-gram arm must have proposed and had accepted.

The arm has no weights that could be wrong, so its counts are known from the plain arm's tokens alone.  When
the engine counts otherwise, its counters or its n-gram proposer are not what they are taken for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from speculators.benchmark.pairs import Sample


class Looked(NamedTuple):
    """Counts of one request; ``undecided``: tokens that may be accepted beyond the last known one."""

    drafts: int
    accepted: int
    undecided: int


def propose(tokens: Sequence[int], shortest: int, longest: int, count: int) -> list[int]:
    """At most ``count`` tokens that followed the earliest occurrence of the longest suffix seen before.

    The suffix has ``shortest`` to ``longest`` tokens (vLLM ``v1/spec_decode/ngram_proposer.py``).
    """
    total = len(tokens)
    for length in range(min(longest, total - 1), shortest - 1, -1):
        suffix = list(tokens[total - length :])
        for start in range(total - length):
            if list(tokens[start : start + length]) == suffix:
                return list(tokens[start + length : start + length + count])
    return []


def look_up(
    prompt: Sequence[int], output: Sequence[int], method: dict[str, Any], count: int, context: int | None
) -> Looked:
    """Serve ``output``, which the verifier chose greedily, with ``count`` looked-up tokens a step.

    ``method``: vLLM's keys of the method; ``context``: ``max_model_len``.
    """
    tokens, known = [*prompt, *output], len(prompt) + 1
    drafts = accepted = undecided = 0
    while known < len(tokens):
        room = count if context is None else min(count, context - known)
        shortest, longest = method["prompt_lookup_min"], method["prompt_lookup_max"]
        proposed = propose(tokens[:known], shortest, longest, room)
        right = _leading(proposed, tokens[known:])
        drafts += bool(proposed)
        accepted += right
        if right == len(tokens) - known:  # nothing known rules the others out
            undecided += len(proposed) - right
        known += right + 1
    return Looked(drafts, accepted, undecided)


def _leading(proposed: Sequence[int], truth: Sequence[int]) -> int:
    pairs = enumerate(zip(proposed, truth))
    return next((place for place, (one, other) in pairs if one != other), min(len(proposed), len(truth)))


def proposals(samples: Sequence[Sample], replay: Mapping[str, Any]) -> dict[str, Any]:
    """The check of an n-gram arm's per-request counts against those of the ``replay``, by prompt id.

    Compared are requests that were answered with the very text that was replayed.
    """
    name, expected = "proposals", replay.get("ngram") or {}
    rows = [row for one in samples for row in one["requests"] if row["spec"] is not None]
    known = [(row, found) for row in rows if (found := expected.get(row["id"]))]
    same = [(row["spec"], found) for row, found in known if row["text_sha256"] == found["text_sha256"]]
    if not same:
        why = replay.get("not_looked_up", "no request of the arm could be replayed")
        return {"name": name, "ok": None, "detail": why}
    right = sum(_fits(spec, found) for spec, found in same)
    detail = f"{right} of {len(same)} requests drafted and accepted what prompt lookup does on plain's tokens"
    return {"name": name, "ok": right == len(same), "detail": detail}


def _fits(spec: dict[str, Any], found: dict[str, Any]) -> bool:
    more = spec["accepted"] - found["accepted"]
    return bool(spec["drafts"] == found["drafts"] and 0 <= more <= found["undecided"])
