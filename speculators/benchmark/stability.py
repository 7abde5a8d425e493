"""Was the machine a fair judge?  Signs in a benchmark that its rounds are not of one kind.

Each is a warning with its reason, never a verdict: noise that is merely large is in the intervals already.
Drift, throttling and company are not, because they need not be the same for all arms or in other sittings.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from speculators.benchmark.pairs import pair_up
from speculators.benchmark.rounds import PLAIN
from speculators.benchmark.statistics import mean_estimate, spread_of, t_quantile

ENOUGH_ROUNDS = 5
LARGEST_SPREAD = 0.05
#: Of plain throughput from the first to the last round, when it is certain as well.
LARGEST_DRIFT = 0.02
LARGEST_CLOCK_DRIFT = 0.02
#: The first of them that is known: where there are GPUs, the processor's clock is not what paces an answer.
CLOCKS = {"gpu_clock_mhz": "GPU", "clock_mhz": "processor"}
#: Cores that others keep busy while the server waits; share of time that the host takes away.
OTHERS_CORES = 0.2
LARGEST_STEAL = 0.01
#: Error probability of the tests below: they are asked of every benchmark.
ALPHA = 0.01


def warnings(benchmark: Mapping[str, Any]) -> list[str]:
    """What speaks against trusting the rounds of a benchmark document, each with its reason."""
    plain = _plain_speeds(benchmark["samples"])
    logs = _log_speedups(benchmark)
    launches = [one for one in benchmark["rounds"] if one.get("machine")]
    again = benchmark.get("set_aside", ())
    return [
        *_rounds(logs),
        *_again(again),
        *_failed(benchmark.get("profiles", ())),
        *_drift(plain),
        *_first(plain, "plain speed"),
        *_machine(launches),
    ]


def _rounds(logs: Sequence[float]) -> Iterator[str]:
    if len(logs) < ENOUGH_ROUNDS:
        yield f"rounds: {len(logs)}; with fewer than {ENOUGH_ROUNDS} little is known of the spread"
    if len(logs) > 1 and (spread := spread_of(logs)) > LARGEST_SPREAD:
        yield f"speedups of the rounds scatter by {spread:.1%} (more than {LARGEST_SPREAD:.0%})"


def _again(rounds: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for one in rounds:
        yield f"round {one['round']} was measured again, for at first {one['why']}"


def _failed(loads: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Of GuideLLM's own loads, whose other figures are then of the requests that were answered."""
    failures = Counter[tuple[str, str]]()
    for one in loads:
        failures[one["arm"], one["profile"]] += one["errored"]
    for (arm, profile), count in failures.items():
        if count:
            yield f"{count} requests of {arm} failed under {profile}: its figures are of the others"


def _plain_speeds(samples: Sequence[Mapping[str, Any]]) -> list[float]:
    """For each round the mean log throughput of plain serving over the loads."""
    rounds: dict[int, list[float]] = {}
    for one in samples:
        if one["arm"] == PLAIN and one["output_tokens_per_second"]:
            rounds.setdefault(one["round"], []).append(math.log(one["output_tokens_per_second"]))
    return [math.fsum(rounds[number]) / len(rounds[number]) for number in sorted(rounds)]


def _log_speedups(benchmark: Mapping[str, Any]) -> list[float]:
    rounds: dict[int, list[float]] = {}
    for pair in pair_up(benchmark["samples"]):
        if pair.speedup:
            rounds.setdefault(pair.round, []).append(math.log(pair.speedup))
    return [math.fsum(values) / len(values) for _, values in sorted(rounds.items())]


def slope(values: Sequence[float]) -> tuple[float, float]:
    """The least-squares slope per step of equally spaced ``values``, and its standard error.

    Raises:
        ValueError: fewer than three values have no error.
    """
    count = len(values)
    if count < 3:
        raise ValueError("the error of a slope needs at least three values")
    centre, mean = (count - 1) / 2, math.fsum(values) / count
    spread = math.fsum((place - centre) ** 2 for place in range(count))
    found = math.fsum((place - centre) * (value - mean) for place, value in enumerate(values)) / spread
    left = math.fsum((value - mean - found * (place - centre)) ** 2 for place, value in enumerate(values))
    return found, math.sqrt(left / (count - 2) / spread)


def _drift(values: Sequence[float]) -> Iterator[str]:
    """A trend of plain serving over the rounds that is both large and certain."""
    if len(values) < 4:
        return
    found, error = slope(values)
    whole = math.expm1(found * (len(values) - 1))
    certain = abs(found) > t_quantile(1 - ALPHA / 2, len(values) - 2) * error
    if certain and abs(whole) > LARGEST_DRIFT:
        way = "faster" if whole > 0 else "slower"
        yield f"drift: plain serving became {abs(whole):.1%} {way} over the rounds"


def _first(values: Sequence[float], what: str) -> Iterator[str]:
    """A first round that is not like the others: the machine had still to warm up, or was busy.

    The prediction interval of one more value of the others, by Student's t.
    """
    first, *others = values or [0.0]
    if len(others) < 3:
        return
    estimate = mean_estimate(others)
    width = t_quantile(1 - ALPHA / 2, estimate.degrees) * spread_of(others) * math.sqrt(1 + 1 / len(others))
    off = math.expm1(first - estimate.mean)
    if abs(first - estimate.mean) > max(width, LARGEST_DRIFT):
        yield f"the first round's {what} is {off:+.1%} off the others'"


def _machine(launches: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What was seen of the machine; ``launches`` hold ``machine`` as ``machine_state`` leaves it.

    In it is as well what the host saw of the GPUs (``gpu_state``).
    """
    states = [(f"round {one['round']} {one['arm']}", one["machine"]) for one in launches]
    busy = [
        (place, state["others_cores"])
        for place, state in states
        if (state["others_cores"] or 0) > OTHERS_CORES
    ]
    if busy:
        place, cores = max(busy, key=lambda one: one[1])
        many = f"{len(busy)} of {len(states)} launches"
        yield f"other load before {many}: up to {cores:.1f} cores busy ({place})"
    stolen = [(place, state["steal"]) for place, state in states if (state["steal"] or 0) > LARGEST_STEAL]
    if stolen:
        place, share = max(stolen, key=lambda one: one[1])
        yield f"the host took up to {share:.1%} of the processor's time ({place})"
    if throttled := [place for place, state in states if state["throttled"]]:
        yield f"throttling in {len(throttled)} of {len(states)} launches, first in {throttled[0]}"
    seen = {name: [clock for _, state in states if (clock := state.get(name))] for name in CLOCKS}
    name = next((name for name in CLOCKS if seen[name]), None)
    if name and max(seen[name]) / min(seen[name]) - 1 > LARGEST_CLOCK_DRIFT:
        yield f"{CLOCKS[name]} clocks between {min(seen[name]):.0f} and {max(seen[name]):.0f} MHz"
    company = [(place, count) for place, state in states if (count := state.get("gpu_processes_of_others"))]
    if company:
        place, count = max(company, key=lambda one: one[1])
        many = f"{len(company)} of {len(states)} launches"
        yield f"processes of others on the GPUs before {many}: up to {count} ({place})"
