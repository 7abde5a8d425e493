"""How often the speedup gate is wrong: many simulated gates through the very rule that judges real ones.

    python benchmarks/gate_calibration.py --gates 10000
    python benchmarks/gate_calibration.py --cell 0.02 0.05 --seeds 10    # one noise and loss, many seeds

It exits 1 when a bar is missed.  Judged is the speedup; a gate's other figures are not simulated.

A gate here draws the logarithms of its launches, looks after 5, 7, 9 and 12 rounds and stops when it
knows.  The designs:

* paired     candidate and base in the same rounds: one launch of each arm a round
* known N    the same on a machine whose spread is known from N rounds of an arm against itself
* stored N   candidate and plain in the same rounds, their ratio against N stored rounds of a baseline,
             whose spread counts as known

Why the spread should be known: five rounds agree by chance now and then, and then the bare rule may call
a real loss ok.  "paired" shows how often, and "stored 5" what a baseline of few rounds misses: of both the
gate itself says so, and only their false alarms are held to a bar.

Noise is the standard deviation of one launch of one arm.  Recorded on the project's own machine (two
cores, 16 requests a load): log speedups of three rounds had 3.8 % at one request at a time and 3.6 % at
four, so about 2.6 % a launch.  ``--heavy`` draws Student t with 4 degrees of freedom, scaled to the same
standard deviation, instead of normal noise.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Below the path, because a checkout need not be installed.
from speculators.benchmark.comparison import ENOUGH_ROUNDS  # noqa: E402
from speculators.benchmark.gate import LOOKS, OK, REGRESSION, UNDECIDED, judge, spent  # noqa: E402
from speculators.benchmark.noise import smallest_loss  # noqa: E402
from speculators.benchmark.statistics import mean_estimate, spread_of, welch  # noqa: E402

TOLERANCE = 0.03
NOISES = (0.005, 0.01, 0.02, 0.026, 0.04, 0.07, 0.10)
LOSSES = (0.0, 0.02, 0.03, 0.05, 0.08)
HEAVY_DEGREES = 4


class Launches:
    """Draws the luck of launches."""

    def __init__(self, noise: float, heavy: bool, seed: str) -> None:
        self.noise, self.heavy, self.random = noise, heavy, random.Random(seed)

    def luck(self) -> float:
        value = self.random.gauss(0, self.noise)
        if not self.heavy:
            return value
        chi = sum(self.random.gauss(0, 1) ** 2 for _ in range(HEAVY_DEGREES))
        return value * math.sqrt((HEAVY_DEGREES - 2) / chi)  # variance of t is degrees / (degrees - 2)

    def ratio(self, shift: float = 0.0) -> float:
        """The log ratio of two arms of one round."""
        return shift + self.luck() - self.luck()


class Design(NamedTuple):
    """What a gate has besides its own rounds: ``before`` rounds of ``kind``."""

    kind: str
    before: int = 0

    @property
    def sure(self) -> bool:
        """Whether a gate has all that it asks for: fewer rounds of a baseline it calls too few."""
        return self.before >= ENOUGH_ROUNDS

    def __str__(self) -> str:
        return f"{self.kind} {self.before or ''}".strip()


DESIGNS = (Design("paired"), Design("known", 12), Design("stored", 12), Design("stored", 5))
NAMES = [str(one) for one in DESIGNS]


def gate(launches: Launches, loss: float, design: Design) -> tuple[str, int]:
    """One gate: its last verdict and its rounds."""
    before = [launches.ratio() for _ in range(design.before)]
    known = spread_of(before) if before else 0.0
    rounds: list[float] = []
    verdict = UNDECIDED
    for look in LOOKS:
        rounds += [launches.ratio(math.log1p(-loss)) for _ in range(look - len(rounds))]
        stored = design.kind == "stored"
        change = welch(rounds, before, known) if stored else mean_estimate(rounds, known)
        verdict = judge(change, TOLERANCE, spent(len(LOOKS))).verdict
        if verdict != UNDECIDED:
            break
    return verdict, len(rounds)


class Tally(NamedTuple):
    """Shares of the gates, and their mean rounds."""

    regression: float
    ok: float
    undecided: float
    rounds: float


def tally(
    noise: float, loss: float, design: Design, options: argparse.Namespace, seed: int | None = None
) -> Tally:
    seed = options.seed if seed is None else seed
    launches = Launches(noise, options.heavy, f"{seed} {noise} {loss} {design}")
    gates = [gate(launches, loss, design) for _ in range(options.gates)]
    said = Counter(verdict for verdict, _ in gates)
    shares = (said[name] / options.gates for name in (REGRESSION, OK, UNDECIDED))
    return Tally(*shares, sum(rounds for _, rounds in gates) / options.gates)


def table(design: Design, options: argparse.Namespace) -> dict[tuple[float, float], Tally]:
    """Print and return the tallies of one design."""
    print(f"\n{design}: regression / ok / undecided in % of {options.gates} gates, and mean rounds")
    print("noise  " + "".join(f"| loss {loss:4.0%}".ljust(28) for loss in LOSSES) + "| sees in 12 rounds")
    found = {}
    for noise in NOISES:
        cells = []
        for loss in LOSSES:
            one = found[noise, loss] = tally(noise, loss, design, options)
            shares = " /".join(f"{100 * share:6.2f}" for share in one[:3])
            cells.append(f"| {shares} {one.rounds:4.1f}".ljust(30))
        error = math.sqrt(2 * (1 + (LOOKS[-1] / design.before if design.kind == "stored" else 0)))
        seen = smallest_loss(error * noise, LOOKS[-1], TOLERANCE, spent(len(LOOKS)))
        print(f"{noise:5.1%}  {''.join(cells)}| {f'{seen:.1%}' if seen else 'nothing'}", flush=True)
    return found


class Bar(NamedTuple):
    """``asked``: whether it is one for this design; of the others is shown how far off they are."""

    text: str
    held: bool
    asked: bool = True

    @property
    def missed(self) -> bool:
        return self.asked and not self.held

    def __str__(self) -> str:
        word = "holds" if self.held else "MISSED" if self.asked else "short"
        return f"{word:<6} {self.text}"


def bars(found: dict[tuple[float, float], Tally], design: Design) -> list[Bar]:
    """What must hold of the tallies of ``design``, by noise and loss."""
    alarms = max(one.regression for (_, loss), one in found.items() if loss == 0)
    five, eight = found[0.02, 0.05], found[0.02, 0.08]
    powers = [
        (f"5 % loss, 2 % noise: called ok in {five.ok:.2%} (never)", five.ok == 0),
        (f"5 % loss, 2 % noise: regression in {five.regression:.2%} (90 %)", five.regression >= 0.90),
        (f"8 % loss, 2 % noise: regression in {eight.regression:.2%} (99 %)", eight.regression >= 0.99),
    ]
    return [
        Bar(f"false alarms at most 5 % at every noise: at most {alarms:.2%}", alarms <= 0.05),
        *(Bar(text, held, design.sure) for text, held in powers),
    ]


def over_seeds(design: Design, options: argparse.Namespace) -> None:
    """Print one cell of the table from as many seeds as were asked for."""
    noise, loss = options.cell
    found = [
        tally(noise, loss, design, options, seed)
        for seed in range(options.seed, options.seed + options.seeds)
    ]
    shares = (
        f"{name} {sum(values) / len(values):.3%} ({min(values):.2%} to {max(values):.2%})"
        for name, values in zip((REGRESSION, OK, UNDECIDED), zip(*(one[:3] for one in found)))
    )
    print(
        f"{design}, noise {noise:.1%}, loss {loss:.0%}, {options.seeds} seeds: {', '.join(shares)}",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gates", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--heavy", action="store_true", help="Student t noise instead of normal")
    parser.add_argument("--design", nargs="+", default=NAMES, choices=NAMES, metavar="DESIGN")
    parser.add_argument("--cell", nargs=2, type=float, metavar=("NOISE", "LOSS"), help="this one alone")
    parser.add_argument("--seeds", type=int, default=10, help="of the cell, --seed the first")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    missed = False
    for design in (one for one in DESIGNS if str(one) in options.design):
        if options.cell:
            over_seeds(design, options)
            continue
        for bar in bars(table(design, options), design):
            print(f"  {bar}")
            missed |= bar.missed
    print(f"\n{time.perf_counter() - started:.0f} s")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
