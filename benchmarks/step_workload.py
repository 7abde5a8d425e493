"""The documents of the training benchmark: documents of mixed lengths, a given share of them taught."""

from __future__ import annotations

import math
import random

SHORTEST, LONGEST = 64, 768  # tokens of a document


def documents(tokens: int, supervised: float, seed: int, shortest_prompt: int = 1) -> list[tuple[int, int]]:
    """Lengths and prompt lengths of documents that fill a pack of ``tokens``.

    Lengths are drawn evenly on a logarithmic scale.
    """
    draw, lengths = random.Random(seed), []
    while sum(lengths) < tokens:
        lengths.append(round(math.exp(draw.uniform(math.log(SHORTEST), math.log(LONGEST)))))
    lengths[-1] -= sum(lengths) - tokens
    if len(lengths) > 1 and lengths[-1] < SHORTEST:
        rest = lengths.pop()
        lengths[-1] += rest
    return [(length, max(shortest_prompt, round((1 - supervised) * length))) for length in lengths]
