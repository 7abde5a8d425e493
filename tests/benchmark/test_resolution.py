"""What an arm against itself says of the machine."""

from __future__ import annotations

import math
import random
from statistics import fmean
from typing import Any

import pytest

from speculators.benchmark.design import Cost
from speculators.benchmark.gate import spent
from speculators.benchmark.noise import smallest_loss, split
from speculators.benchmark.pairs import pair_up
from speculators.benchmark.resolution import cost_of, resolution, table
from speculators.benchmark.statistics import spread_of
from speculators.report.noise import text
from tests.benchmark.conftest import request, sample

LOOKS = (5, 7, 9, 12)


def against_itself(
    rounds: int, prompts: int, between: float, within: float, loads: tuple[int, ...] = (1,)
) -> dict[str, Any]:
    """A benchmark document whose base is the draft, on a machine with this noise."""
    draw = random.Random(1)
    samples, launches = [], []
    for number in range(1, rounds + 1):
        luck = draw.gauss(0, between)
        seconds = [1 + place for place in range(prompts)]
        whole = {"base": 50.0, "draft": 50.0}
        for load in loads:
            ours = [one * math.exp(luck + draw.gauss(0, within)) for one in seconds]
            for arm, times in (("base", seconds), ("draft", ours)):
                rows = [request(f"p{place}", seconds=one) for place, one in enumerate(times)]
                rate = 10 * prompts / sum(times)
                samples.append(sample(number, arm, load, rate, rows, wall_seconds=sum(times)))
                whole[arm] += sum(times)
        launches += [{"round": number, "arm": arm, "seconds": one} for arm, one in whole.items()]
    return {"benchmark": {"requests": prompts}, "samples": samples, "rounds": launches}


def test_the_table_holds_every_requests_ratio() -> None:
    document = against_itself(3, 4, 0.0, 0.1)
    found = table(pair_up(document["samples"], "draft", plain="base"))
    assert [len(row) for row in found] == [4, 4, 4]
    rows = document["samples"][1]["requests"]
    assert found[0] == pytest.approx([math.log((1 + i) / row["seconds"]) for i, row in enumerate(rows)])


def test_a_launch_costs_what_its_loads_do_not() -> None:
    document = against_itself(3, 4, 0.0, 0.0)
    found = cost_of(document, pair_up(document["samples"], "draft", plain="base"))
    assert found == pytest.approx(Cost(100.0, 2 * (1 + 2 + 3 + 4) / 4))


def test_noise_of_launches_is_told_from_that_of_requests() -> None:
    launches = resolution(against_itself(12, 16, 0.05, 0.01), LOOKS, 0.03, 16)
    requests = resolution(against_itself(12, 16, 0.0, 0.2), LOOKS, 0.03, 16)
    assert launches["between"] > 0.03 > launches["within"]
    assert requests["within"] > 0.1 > 0.03 > requests["between"]


def test_a_request_is_one_prompt_at_every_load_in_the_noise_as_in_the_cost() -> None:
    document = against_itself(40, 16, 0.0, 0.2, (1, 2, 4, 8))
    rows = table(pair_up(document["samples"], "draft", plain="base"))
    assert [len(row) for row in rows] == [16] * 40
    found = split(rows)
    # Four loads average the luck of one request out: its standard deviation is half that at one load.
    assert math.sqrt(found.within) == pytest.approx(0.1, rel=0.1)
    # What designs are reckoned with is then the scatter of a round's mean as it was measured.
    assert found.of_round(16) == pytest.approx(spread_of([fmean(row) for row in rows]), rel=0.1)


def test_a_quieter_machine_sees_smaller_losses() -> None:
    quiet, loud = (
        resolution(against_itself(8, 8, noise, 0.01), LOOKS, 0.03, 8)["seen"] for noise in (0.01, 0.05)
    )
    assert all(one["loss"] < other["loss"] for one, other in zip(quiet, loud))
    losses = [one["loss"] for one in quiet]
    assert losses == sorted(losses, reverse=True)  # with more rounds, smaller ones


def test_a_spread_that_few_rounds_measured_promises_less() -> None:
    document = against_itself(8, 8, 0.06, 0.01)
    few = resolution({**document, "samples": document["samples"][:6]}, LOOKS, 0.03, 8)
    alpha = spent(len(LOOKS))
    taken_at_its_word = smallest_loss(few["spread"], 12, 0.03, alpha)
    known = smallest_loss(few["spread"], 12, 0.03, alpha, degrees=1000)
    assert taken_at_its_word is not None
    assert known == pytest.approx(taken_at_its_word, rel=0.01)
    assert few["seen"][-1]["loss"] > 1.3 * taken_at_its_word


def test_the_text_says_what_is_seen_and_what_it_would_take() -> None:
    found = resolution(against_itself(8, 8, 0.02, 0.05), LOOKS, 0.03, 8)
    shown = text({**found, "warnings": ["drift: of something"]})
    assert "12 rounds as here find a loss of" in shown
    assert "soonest: gate.looks [" in shown
    assert "warning: drift: of something" in shown
