"""Does splitting the noise pay?  The design that ``--aa`` chooses against a fixed one, on simulated machines.

    python benchmarks/design_calibration.py
    python benchmarks/design_calibration.py --noise runs/my/latest/noise.json    # one that --aa measured
    python benchmarks/design_calibration.py --measured 30    # what longer A/A measurements are worth

A machine has the noise of a launch and that of a request (standard deviations of the log ratio of two arms),
and what a launch and a request cost.  A fixed design measures so many rounds of so many requests and then
looks.  Each draw measures the machine as ``--aa`` does, splits what it saw, and takes the cheapest
design that is to find the loss as often as the fixed one; its *true* power and mean wall time are then known,
be the draft unchanged or worse by the loss, whichever takes longer.

The fixed design is 12 rounds, the gate's last look, of 16 requests: the default recipe's.  What that recipe's
own gate takes, which may end at its earlier looks, stands beside it: the gain that is owed to looking alone.
It exits 1 when the chosen designs take longer than the bar, or find the loss less often than the fixed one on
any machine.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Below the path, because a checkout need not be installed.
from speculators.benchmark.design import Cost, cheapest, played  # noqa: E402
from speculators.benchmark.gate import LOOKS  # noqa: E402
from speculators.benchmark.noise import Split, split  # noqa: E402
from speculators.documents import read_json  # noqa: E402

TOLERANCE = 0.03
LOSS = 0.05
BAR = 0.70


class Machine(NamedTuple):
    name: str
    between: float
    within: float
    cost: Cost


class Fixed(NamedTuple):
    rounds: int
    requests: int

    def seconds(self, cost: Cost) -> float:
        return self.rounds * cost.of_round(self.requests)


#: Standard deviation of a round's log ratio with 16 requests, as recorded on the project's own machine.
RECORDED = 0.037
#: How much of its variance is the launch's own is what no total says, so all kinds are looked at.
SHARES = (0.9, 0.5, 0.1)
#: Of two arms.  Here a launch takes over a minute, and 64 tokens at one and at four requests at a time six
#: seconds; on a GPU a launch costs as much and a request less.
COSTS = {"two cores": Cost(150, 12.0), "a GPU": Cost(150, 1.0)}


def machines() -> Iterator[Machine]:
    for place, cost in COSTS.items():
        for share in SHARES:
            variance = RECORDED**2
            within = math.sqrt((1 - share) * variance * RECIPE.requests)
            yield Machine(f"{place}, {share:.0%} from launches", math.sqrt(share * variance), within, cost)


RECIPE = Fixed(LOOKS[-1], 16)


class Outcome(NamedTuple):
    """True powers, and mean wall times as shares of the fixed design's.

    ``looking``: of the recipe's own gate, with its looks.
    """

    fixed: float
    looking: float
    looking_time: float
    chosen: float
    time: float
    rounds: float
    requests: float


def measured(machine: Machine, rounds: int, requests: int, draw: random.Random) -> Split:
    """What one A/A measurement says of the machine."""
    rows = []
    for _ in range(rounds):
        luck = draw.gauss(0, machine.between)
        rows.append([luck + draw.gauss(0, machine.within) for _ in range(requests)])
    return split(rows)


def outcome(machine: Machine, fixed: Fixed, options: argparse.Namespace) -> Outcome:
    """The mean over many A/A measurements; one that finds no design keeps the fixed one."""
    truth, whole = Split(machine.between**2, machine.within**2), fixed.seconds(machine.cost)
    reached = played(LOSS, truth.of_round(fixed.requests), (fixed.rounds,), TOLERANCE).found
    looking, looking_rounds = gates(truth, LOOKS, fixed.requests)
    draw = random.Random(f"{options.seed} {machine}")
    found = []
    for _ in range(options.draws):
        seen = measured(machine, options.measured, fixed.requests, draw) if options.measured else truth
        design = cheapest(seen, machine.cost, LOSS, TOLERANCE, prompts=options.prompts, wanted=reached)
        looks, requests = (design.looks, design.requests) if design else ((fixed.rounds,), fixed.requests)
        power, rounds = gates(truth, looks, requests)
        found.append((power, rounds * machine.cost.of_round(requests) / whole, rounds, requests))
    chosen = (fmean(column) for column in zip(*found))
    return Outcome(reached, looking, looking_rounds / fixed.rounds, *chosen)


def gates(truth: Split, looks: tuple[int, ...], requests: int) -> tuple[float, float]:
    """The power of a design, and the rounds that its gates take in the mean."""
    same, worse = (played(loss, truth.of_round(requests), looks, TOLERANCE) for loss in (0.0, LOSS))
    return worse.found, max(same.rounds, worse.rounds)


def bars(found: Sequence[tuple[str, Outcome]]) -> list[tuple[str, bool]]:
    """What must hold over all machines, whose names stand beside what came of them, and whether it does."""
    mean = math.exp(fmean(math.log(one.time) for _, one in found))
    name, worst = min(found, key=lambda pair: pair[1].chosen - pair[1].fixed)
    power = f"the loss found in {worst.chosen:.2%}, by the fixed design in {worst.fixed:.2%}"
    return [
        (f"{mean:.0%} of the fixed design's wall time (bar {BAR:.0%})", mean <= BAR),
        (f"{power}, where it compares worst ({name})", worst.chosen >= worst.fixed),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=200, help="A/A measurements of each machine")
    parser.add_argument(
        "--measured", type=int, default=RECIPE.rounds, help="rounds of each A/A measurement; 0: known"
    )
    parser.add_argument("--prompts", type=int, default=64, help="requests that a round can have at most")
    parser.add_argument("--fixed", type=int, nargs=2, default=list(RECIPE), metavar=("ROUNDS", "REQUESTS"))
    parser.add_argument("--noise", type=Path, nargs="*", default=[], help="noise.json of runs with --aa")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    fixed = Fixed(*options.fixed)
    print(f"a loss of {LOSS:.0%}; fixed: {fixed.rounds} rounds of {fixed.requests} requests")
    print(f"{'machine':<30}{'fixed':>8}{'its gate':>16}{'chosen':>8}{'rounds':>8}{'requests':>10}{'time':>6}")
    found = []
    for machine in (*machines(), *map(of_file, options.noise)):
        one = outcome(machine, fixed, options)
        found.append((machine.name, one))
        print(
            f"{machine.name:<30}{one.fixed:>8.1%}{one.looking:>9.1%} in {one.looking_time:>3.0%}"
            f"{one.chosen:>8.1%}{one.rounds:>8.1f}{one.requests:>10.1f}{one.time:>6.0%}",
            flush=True,
        )
    held = bars(found)
    for text, holds in held:
        print(f"{'holds ' if holds else 'MISSED'} {text}")
    return int(not all(holds for _, holds in held))


def of_file(path: Path) -> Machine:
    """The machine that an A/A run measured."""
    noise = read_json(path)
    cost = Cost(noise["launch_seconds"], noise["request_seconds"])
    return Machine(str(path.parent.name), noise["between"], noise["within"], cost)


if __name__ == "__main__":
    sys.exit(main())
