"""From a cost model to the setting that vLLM takes: how many tokens to propose at each batch size.

``num_speculative_tokens_per_batch_size`` is a list of inclusive ranges (vLLM
``v1/spec_decode/dynamic/utils.py``): the first begins at 1, none overlap, K is 0 where speculation does not
pay.  ``num_speculative_tokens`` is the largest K of them, because vLLM cuts the others down to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from speculators.benchmark.cost_model import Measured, Model


class Setting(NamedTuple):
    """``tokens``: K, 0 where speculation should be off; ``schedule``: (first, last, K) of batch sizes."""

    tokens: int
    schedule: tuple[tuple[int, int, int], ...]

    @property
    def off_from(self) -> int | None:
        """The batch size from which on speculation is off; None where it never is."""
        first, _, tokens = self.schedule[-1]
        return first if tokens == 0 else None

    def at(self, requests: int) -> int:
        """K at a batch size; beyond the last range its K, as vLLM keeps it."""
        return next((tokens for _, last, tokens in self.schedule if requests <= last), self.schedule[-1][2])

    def config(self) -> dict[str, Any]:
        """The keys of ``--speculative-config``; empty where speculation pays nowhere."""
        if not self.tokens:
            return {}
        ranges = [list(one) for one in self.schedule]
        return {"num_speculative_tokens": self.tokens, "num_speculative_tokens_per_batch_size": ranges}


def setting(model: Model, batch_sizes: int, context: float) -> Setting:
    """The fastest K at each batch size up to ``batch_sizes``, with ``context`` tokens a request."""
    chosen = [(requests, model.best(requests, context)) for requests in range(1, batch_sizes + 1)]
    schedule = []
    for tokens, run in groupby(chosen, key=lambda one: one[1]):
        sizes = [requests for requests, _ in run]
        schedule.append((sizes[0], sizes[-1], tokens))
    return Setting(max(tokens for _, _, tokens in schedule), tuple(schedule))


def validated(found: Setting) -> list[tuple[int, int, int]]:
    """The schedule as vLLM's own function takes it; imports vLLM.

    Raises:
        ValueError: vLLM refuses it.
    """
    from vllm.v1.spec_decode.dynamic.utils import validate_and_normalize_dynamic_sd_schedule

    ranges: list[tuple[int, int, int]] = validate_and_normalize_dynamic_sd_schedule(
        [list(one) for one in found.schedule]
    )
    return ranges


class Regret(NamedTuple):
    """At one load: the recommended K, the best measured one, and what the first loses against it.

    ``loss``: None where the recommended K was not measured.
    """

    requests: int
    context: float
    recommended: int
    best: int
    loss: float | None


def regrets(chosen: Setting, measured: Sequence[Measured]) -> Iterable[Regret]:
    """For each load at which several K were measured, how good that of ``chosen`` really is."""
    loads: dict[tuple[int, float], dict[int, float]] = {}
    for one in measured:
        loads.setdefault((one.cell.requests, one.cell.context), {})[one.cell.tokens] = one.speed
    for (requests, context), speeds in sorted(loads.items()):
        if len(speeds) < 2:
            continue
        best, recommended = max(speeds, key=speeds.__getitem__), chosen.at(requests)
        loss = 1 - speeds[recommended] / speeds[best] if recommended in speeds else None
        yield Regret(requests, context, recommended, best, loss)
