"""How fast an arm is against plain serving, load by load and over all loads.

Only throughputs of one round are divided by each other; a mean ratio is None unless every round has one.
"""

from __future__ import annotations

from typing import Any

from speculators.benchmark.load import mean_latencies
from speculators.benchmark.pairs import Pair
from speculators.benchmark.rounds import DRAFT, PLAIN
from speculators.benchmark.statistics import geometric_mean, mean_ratio


def at(pairs: list[Pair], concurrency: int) -> list[Pair]:
    return [pair for pair in pairs if pair.concurrency == concurrency]


def speed_at(pairs: list[Pair], concurrency: int, arm: str = DRAFT) -> dict[str, Any]:
    """One concurrency: each round's throughputs and ratio, and the latencies of plain and ``arm``."""
    pairs = at(pairs, concurrency)
    return {
        "rounds": [
            {
                "round": pair.round,
                PLAIN: pair.plain["output_tokens_per_second"],
                arm: pair.draft["output_tokens_per_second"],
                "speedup": pair.speedup,
            }
            for pair in pairs
        ],
        "speedup": ratio([pair.speedup for pair in pairs]),
        "latencies": {
            PLAIN: mean_latencies([pair.plain for pair in pairs]),
            arm: mean_latencies([pair.draft for pair in pairs]),
        },
    }


def overall(pairs: list[Pair]) -> dict[str, Any] | None:
    """The speedup over all concurrencies: a geometric mean within each round, then over rounds."""
    rounds = sorted({pair.round for pair in pairs})
    return ratio([round_speedup(pairs, number) for number in rounds])


def round_speedup(pairs: list[Pair], number: int) -> float | None:
    """Geometric mean over the concurrencies of one round."""
    ratios = [pair.speedup for pair in pairs if pair.round == number]
    known = [ratio for ratio in ratios if ratio is not None]
    return geometric_mean(known) if known and len(known) == len(ratios) else None


def ratio(ratios: list[float | None]) -> dict[str, Any] | None:
    """A mean ratio as a document; None unless every round has a value."""
    known = [ratio for ratio in ratios if ratio is not None]
    return mean_ratio(known)._asdict() if known and len(known) == len(ratios) else None


def breaks_even(speed: list[dict[str, Any]], steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The acceptance length at which a load is as fast as plain serving: what a step takes in plain ones.

    A draft of acceptance length t whose steps take c plain ones each is t / c times as fast, so that c is
    ``steps``' acceptance length (every step of the verifier counted) over the speedup.
    """
    lengths = {one["concurrency"]: one.get("acceptance_length") for one in steps}
    return [
        {
            "concurrency": one["concurrency"],
            "mean": length / ratio["mean"],
            "low": length / ratio["high"] if ratio["high"] else None,
            "high": length / ratio["low"] if ratio["low"] else None,
        }
        for one in speed
        if (ratio := one["speedup"]) and (length := lengths.get(one["concurrency"]))
    ]
