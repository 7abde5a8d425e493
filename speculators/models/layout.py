"""Which keys of the past each query of a packed sequence sees, in the words that attention kernels know.

Made in the loader, where sizes may depend on data; see ``models.attention`` for what is done with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch


class Run(NamedTuple):
    """Consecutive query rows of one document, and the keys of that document up to the last of them.

    The i-th last query sees all keys but the i last: causal attention aligned at the end.
    """

    queries: tuple[int, int]  # first and end row of the query tensor
    keys: tuple[int, int]  # first and end row of the key tensor


class Runs:
    """Runs in order, for kernels that go from one to the next.

    A plain object and not a tuple: code compiled for a GPU reads offsets instead, and must not be
    made anew for another number of documents.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = tuple(runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)


class Layout(NamedTuple):
    """Which keys of the past each query sees; made by ``layout_of`` in the loader.

    ``window``: how many keys at most, the query's own included; None for all.  ``longest``: bounds of
    a run's queries and keys, rounded up, since kernels only plan their work by them and compiled
    code is made anew for each value.
    """

    runs: Runs
    longest: tuple[int, int]
    query_offsets: torch.Tensor  # [runs + 1] int32, where each run's queries start
    key_offsets: torch.Tensor  # [runs + 1] int32, where each run's keys start among ``key_rows``
    key_rows: torch.Tensor  # [sum of key counts] int64, each run's keys side by side
    window: int | None = None


def layout_of(runs: Sequence[Run]) -> Layout:
    """The layout of runs in order, which must cover the query rows without a gap."""
    queries = [end - start for (start, end), _ in runs]
    keys = [end - start for _, (start, end) in runs]
    rows = [torch.arange(start, end) for _, (start, end) in runs]
    return Layout(
        runs=Runs(runs),
        longest=(_rounded(max(queries, default=0)), _rounded(max(keys, default=0))),
        query_offsets=torch.tensor([0, *accumulate(queries)], dtype=torch.int32),
        key_offsets=torch.tensor([0, *accumulate(keys)], dtype=torch.int32),
        key_rows=torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int64),
    )


def _rounded(length: int) -> int:
    return 1 << max(0, length - 1).bit_length()  # the next power of two
