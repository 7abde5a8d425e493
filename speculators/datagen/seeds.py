"""The seed of each single request, so that its text depends on nothing else that is asked for."""

from __future__ import annotations

__all__ = ["request_seed"]

#: Requests of one seed, so that neighbouring seeds share none.
STRIDE = 1 << 24


def request_seed(seed: int, number: int) -> int:
    """The seed of request ``number`` in data made with ``seed``."""
    return seed * STRIDE + number
