"""Which responses loop: small models greedily repeat themselves, and repeats are easy to draft.

Looping rows lift acceptance, so figures are shown with and without them.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["LOOPING_FRACTION", "is_looping", "repeated_fraction"]

#: A row loops if more than this fraction of its token 8-grams occurred earlier in the row.
LOOPING_FRACTION = 0.3


def repeated_fraction(token_ids: Sequence[int], n: int = 8) -> float:
    """Fraction of the token n-grams that occurred earlier in the sequence; 0 for fewer than n tokens."""
    grams = [tuple(token_ids[start : start + n]) for start in range(len(token_ids) - n + 1)]
    return (len(grams) - len(set(grams))) / len(grams) if grams else 0.0


def is_looping(token_ids: Sequence[int]) -> bool:
    """Whether the sequence repeats itself beyond ``LOOPING_FRACTION``."""
    return repeated_fraction(token_ids) > LOOPING_FRACTION
