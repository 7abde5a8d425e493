"""How sure a replayed acceptance length is, and a gain between two of them.

Drafts of one document depend on each other: the walk goes on where the last draft ended, and one
topic is easy or hard as a whole.  So documents, not drafts, are what varies independently, and noise
is counted over them.

An acceptance length is ``1 + R`` with the ratio ``R = sum_d a_d / sum_d n_d`` of accepted tokens a_d to
drafts n_d over D documents.  Its first-order influence of document d is ``u_d = (a_d - R n_d) / sum n``;
these sum to zero, and

    ``variance of R = D / (D - 1) * sum_d u_d^2``

is the usual linearised ("sandwich") variance of a ratio of cluster totals (Cochran, "Sampling
Techniques", 3rd ed., section 6.3; K.-Y. Liang and S. Zeger, Biometrika 73, 1986).  A gain between two
drafts on the *same* documents has influences ``u_d(later) - u_d(earlier)``: what makes a document easy for
both cancels, so a gain is much surer than either length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

Counts = Sequence[tuple[int, int]]  # (accepted, drafts) of each document


class Gain(NamedTuple):
    """A difference of acceptance lengths and its standard error; infinite where nothing can be said."""

    gain: float
    noise: float

    @property
    def is_noise(self) -> bool:
        """Whether the gain is smaller than its standard error; a loss always is."""
        return self.gain < self.noise


def ratio(counts: Counts) -> float:
    """Accepted tokens per draft; 0 where nothing was drafted."""
    accepted, drafts = (sum(column) for column in zip(*counts)) if counts else (0, 0)
    return accepted / drafts if drafts else 0.0


def influences(counts: Counts) -> list[float]:
    """What each document adds to the error of ``ratio``, to first order: they sum to zero."""
    mean, drafts = ratio(counts), sum(one for _, one in counts)
    return [(accepted - mean * one) / drafts if drafts else 0.0 for accepted, one in counts]


def clustered_error(influence: Sequence[float]) -> float:
    """The standard error that independent documents of these influences give; infinite below two."""
    documents = len(influence)
    if documents < 2:
        return math.inf
    return math.sqrt(documents / (documents - 1) * sum(value * value for value in influence))


def noise(counts: Counts) -> float:
    """The standard error of the acceptance length over ``counts``."""
    return clustered_error(influences(counts))


def gain(earlier: Counts, later: Counts) -> Gain:
    """How much longer ``later`` accepts than ``earlier``, both on the same documents in the same order."""
    paired = [after - before for before, after in zip(influences(earlier), influences(later), strict=True)]
    return Gain(ratio(later) - ratio(earlier), clustered_error(paired))
