"""How far the sweep's cost model is from published figures of an H100 that it was not fitted to.

    python benchmarks/sweep_published.py

A publication seldom says how long a step took, only how much faster serving became.  So the parts of a
step's time are fitted to those ratios, in units of the plain step's constant: a speedup is the acceptance
length times the plain step over the speculating one.  Three questions, each harder than the one before:

* held out: each cell from a fit to all others of its row, which is interpolation but at both ends
* another draft: a row from the step times of the other row, with one number of its own, its acceptance length
* larger batches: the upper half of a row from a fit to the lower one

Where times and acceptance lengths are published for several K, the sweep's own fit takes them as they are:

* another K: the speed at each K but the deepest from step times and lengths at all others

Figures are used that name their GPU, and whose chain of proposed tokens is stated; trees cost otherwise.
(Of ``TIMED`` the GPU is known from its author's other figures only, which the output says.)  Those that were
looked at and left out stand in ``LEFT_OUT``.

It exits 1 when the bar is missed on a question that the sweep relies on: on all but larger batches.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import numpy
from scipy.optimize import least_squares

from speculators.benchmark.cost_model import Acceptance, Cell, HeldOut, Measured, Model, StepTime, fit

#: The bar on the median error.
BAR = 0.10
#: Asked to know how far the model reaches; the sweep predicts at loads only that it measured.
BEYOND = ("larger batches",)


class Published(NamedTuple):
    """Speedups over plain serving by batch size.

    ``length``: the acceptance length where one is published for this draft, prompts and K; None fits it.
    """

    title: str
    source: str
    tokens: int
    length: float | None
    speedups: dict[int, float]


TABLE_3 = (
    "Li and others, EAGLE-3, arXiv:2503.01840, table 3: one H100, Llama-3.1-8B-Instruct, MT-Bench, SGLang"
)
BATCHES = (2, 4, 8, 16, 24, 32, 48, 56, 64)
SOURCES = (
    Published(
        "EAGLE-3, chain of 3",
        f"{TABLE_3}; length of that draft in the speculators format, same prompts and K: "
        "github.com/vllm-project/vllm/pull/32030",
        3,
        2.60,
        dict(zip(BATCHES, (1.81, 1.82, 1.62, 1.48, 1.39, 1.32, 1.38, 1.34, 1.38), strict=True)),
    ),
    Published(
        "EAGLE, chain of 3",
        TABLE_3,
        3,
        None,
        dict(zip(BATCHES, (1.40, 1.38, 1.23, 1.02, 0.93, 0.94, 0.88, 0.99, 0.99), strict=True)),
    ),
)
TIMED = "github.com/vllm-project/vllm/issues/20780"
#: Seconds of a token of plain serving there.
PLAIN = 7.07e-3
#: By K, at one request at a time: acceptance length, seconds of a token after the first.
TIMES = {
    "EAGLE-3": {
        2: (2.36, 4.32e-3),
        3: (2.79, 4.09e-3),
        4: (3.08, 4.05e-3),
        5: (3.32, 4.13e-3),
        6: (3.46, 4.20e-3),
        7: (3.54, 4.29e-3),
    },
    "EAGLE": {
        2: (2.10, 4.37e-3),
        3: (2.29, 4.29e-3),
        4: (2.39, 4.48e-3),
        5: (2.43, 4.71e-3),
        6: (2.45, 4.94e-3),
        7: (2.47, 5.20e-3),
    },
}
LEFT_OUT = (
    "EAGLE-3, arXiv:2503.01840, table 4, and SGLang's documentation (158 to 373 tokens/s): a tree, one cell",
    "github.com/vllm-project/vllm/pull/16937 (H100, K of 2, 4, 7): no acceptance lengths there",
    "github.com/SafeAILab/EAGLE/pull/330 (H100, GLM-4.7-Flash): a tree, two cells",
    "github.com/sgl-project/sglang/pull/22246 (K of 1 to 6, batches to 64): no plain figures, no GPU named",
)


def predicted(time: StepTime, length: float, tokens: int, batch: int) -> float:
    """The speedup that the model gives; contexts are unknown, so the cache is paid by the request."""
    plain, drafting = (time.seconds(Cell(count, batch, 1.0)) for count in (0, tokens))
    return length * plain / drafting


def fitted(source: Published, batches: Sequence[int]) -> tuple[StepTime, float]:
    """Step times and acceptance length of least squared logarithmic error at ``batches``, none negative."""
    observed = numpy.log([source.speedups[one] for one in batches])  # [batches]

    def unpacked(values: Sequence[float]) -> tuple[StepTime, float]:
        *parts, length = (math.exp(one) for one in values)
        return StepTime(1.0, *parts, math.inf), source.length or length

    def residuals(values: Sequence[float]) -> numpy.ndarray:
        time, length = unpacked(values)
        ours = [predicted(time, length, source.tokens, one) for one in batches]
        return numpy.log(ours) - observed

    # In logarithms nothing is negative.  A step of one request is mostly its constant; the start is that.
    start = numpy.log([0.01, 0.01, 0.1, 0.01, 0.01, 1e-9, 2.0])
    found = least_squares(residuals, start, bounds=(start - 12, start + 6))
    return unpacked(found.x)


def of_another_batch(source: Published) -> dict[int, float]:
    """For each batch size the speedup that a fit to all others predicts."""
    found = {}
    for batch in source.speedups:
        time, length = fitted(source, [one for one in source.speedups if one != batch])
        found[batch] = predicted(time, length, source.tokens, batch)
    return found


def of_another_draft(source: Published, other: Published) -> dict[int, float]:
    """Each batch size of ``source`` by the step times of ``other``; its length by its own other cells."""
    time, _ = fitted(other, list(other.speedups))
    unit = {batch: predicted(time, 1.0, source.tokens, batch) for batch in source.speedups}
    lengths = {batch: source.speedups[batch] / unit[batch] for batch in source.speedups}
    return {batch: unit[batch] * median(lengths[one] for one in lengths if one != batch) for batch in lengths}


def of_larger_batches(source: Published) -> dict[int, float]:
    """The upper half by a fit to the lower one."""
    batches = sorted(source.speedups)
    known = batches[: (len(batches) + 1) // 2]
    time, length = fitted(source, known)
    return {batch: predicted(time, length, source.tokens, batch) for batch in batches if batch not in known}


def of_another_k(times: Mapping[int, tuple[float, float]]) -> list[HeldOut]:
    """The speed at each K from the others: of its own neither step time nor length is known.

    As in the sweep the deepest is not predicted: nobody else says what its last position accepts.
    """
    found = []
    for k in sorted(times)[:-1]:
        others = {one: seen for one, seen in times.items() if one != k}
        rest = [Measured(Cell(0, 1, 1.0), PLAIN, 1.0)]  # of the context only that it is the same in all
        rest += [Measured(Cell(one, 1, 1.0), length * each, length) for one, (length, each) in others.items()]
        model = Model(
            Acceptance(rates_between({0: 1.0} | {one: others[one][0] for one in others})), fit(rest)
        )
        cell = Cell(k, 1, 1.0)
        found.append(HeldOut(cell, 1 / times[k][1], model.speed(cell)))
    return found


def rates_between(lengths: Mapping[int, float]) -> tuple[float, ...]:
    """Acceptance of each position by lengths at some K, 0 among them; between two of those in equal parts."""
    return tuple(
        (lengths[high] - lengths[low]) / (high - low)
        for low, high in pairwise(sorted(lengths))
        for _ in range(low, high)
    )


def errors(source: Published, found: Mapping[int, float]) -> list[float]:
    """How far each prediction is off, relative to what was published."""
    return [abs(ours / source.speedups[batch] - 1) for batch, ours in found.items()]


def missed(questions: Mapping[str, Sequence[float]]) -> list[str]:
    """The questions with too large a median error."""
    return [name for name, off in questions.items() if not median(off) <= BAR]


def main() -> int:
    questions: dict[str, list[float]] = {}
    for source, other in zip(SOURCES, reversed(SOURCES)):
        print(f"{source.title}\n  {source.source}")
        answers = {
            "held out": of_another_batch(source),
            "another draft": of_another_draft(source, other),
            "larger batches": of_larger_batches(source),
        }
        for batch, theirs in source.speedups.items():
            cells = [f"{name} {ours[batch]:.2f}" for name, ours in answers.items() if batch in ours]
            print(f"  batch {batch:2}: published {theirs:.2f}; {', '.join(cells)}")
        for name, ours in answers.items():
            questions.setdefault(name, []).extend(errors(source, ours))
    print(f"{TIMED}: vLLM, one request at a time")
    print("  (names no GPU; its author's figures of the same drafts in pull/16937 there are of an H100)")
    for draft, times in TIMES.items():
        found = of_another_k(times)
        cells = [
            f"{one.cell.tokens}: {1 / one.measured:.5f} s, ours {1 / one.predicted:.5f}" for one in found
        ]
        print(f"  {draft}, seconds of a token by K: {'; '.join(cells)}")
        questions.setdefault("another K", []).extend(abs(one.error) for one in found)
    not_met = missed(questions)
    for name, off in questions.items():
        verdict = "not met" if name in not_met else "met"
        spread = f"median error {median(off):.1%}, worst {max(off):.1%}"
        print(f"{name}: {len(off)} cells, {spread}, bar {BAR:.0%} on the median: {verdict}")
    print("not used:", *LEFT_OUT, sep="\n  ")
    return int(not set(not_met) <= set(BEYOND))


if __name__ == "__main__":
    sys.exit(main())
