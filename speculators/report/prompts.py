"""Prompt by prompt: what serving accepted, what the replay predicted, and the answers at both ends.

Served counts are vLLM's own per request, pooled over rounds and loads.  No engine says *which* tokens it
accepted; the words come from the replay of the same answers (``inspection.drafts``), and the counts of both
stand side by side so that a reader sees whether they tell of the same drafts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speculators.benchmark.rounds import ARMS, DRAFT

Counts = dict[str, Any]


def per_prompt(benchmark: Mapping[str, Any], replay: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """A row a prompt, the least accepted first; empty where nobody counted.

    ``served``, ``replayed``: drafts, accepted and acceptance length, None where that was not counted.
    """
    served = _served(benchmark)
    replayed = {row["id"]: row for row in (replay or {}).get("prompts", ())}
    # Another verifier's answers, or another draft's, are not those that the counts are of.
    ours = [one for one in benchmark["samples"] if one["arm"] in ARMS]
    looping = {row["id"]: row["looping"] for one in ours for row in one["requests"]}
    rows = [
        {
            "id": name,
            "looping": looping[name] if name in looping else replayed[name]["looping"],
            "served": served.get(name),
            "replayed": _length(replayed[name]) if name in replayed else None,
        }
        for name in {**served, **replayed}
    ]
    return sorted(rows, key=_least_first)


def _served(benchmark: Mapping[str, Any]) -> dict[str, Counts]:
    """The draft arm's counts of each prompt; nothing of a prompt with a request that was not counted."""
    found: dict[str, list[Counts | None]] = {}
    for one in benchmark["samples"]:
        if one["arm"] == DRAFT:
            for row in one["requests"]:
                found.setdefault(row["id"], []).append(row["spec"])
    pooled = {
        name: {key: sum(one[key] for one in counts if one) for key in ("drafts", "accepted")}
        for name, counts in found.items()
        if all(counts)
    }
    return {name: _length(counts) for name, counts in pooled.items()}


def _length(counts: Mapping[str, Any]) -> Counts:
    drafts, accepted = counts["drafts"], counts["accepted"]
    length = 1 + accepted / drafts if drafts else None
    return {"drafts": drafts, "accepted": accepted, "acceptance_length": length}


def _least_first(row: dict[str, Any]) -> tuple[float, str]:
    counted = row["served"] or row["replayed"]
    length = counted["acceptance_length"] if counted else None
    return (length if length is not None else 0.0, row["id"])
