"""What an arm against itself says of the machine."""

from __future__ import annotations

import math
import random
from statistics import fmean
from typing import Any

import pytest

from speculators.benchmark.design import Cost
from speculators.benchmark.figures import tells_changed
from speculators.benchmark.gate import spent
from speculators.benchmark.noise import smallest_loss, split
from speculators.benchmark.pairs import pair_up
from speculators.benchmark.resolution import cost_of, resolution, table
from speculators.benchmark.statistics import spread_of
from speculators.report.noise import TOO_FEW, text
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
        whole = {"plain": 40.0, "base": 50.0, "draft": 50.0}
        for load in loads:
            ours = [one * math.exp(luck + draw.gauss(0, within)) for one in seconds]
            for arm, times in (("plain", seconds), ("base", seconds), ("draft", ours)):
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
    rows = next(one["requests"] for one in document["samples"] if one["arm"] == "draft")
    assert found[0] == pytest.approx([math.log((1 + i) / row["seconds"]) for i, row in enumerate(rows)])


def test_a_launch_costs_what_its_loads_do_not() -> None:
    document = against_itself(3, 4, 0.0, 0.0)
    assert cost_of(document, ("draft", "base")) == pytest.approx(Cost(100.0, 2 * (1 + 2 + 3 + 4) / 4))


def test_a_gate_with_its_base_in_the_rounds_costs_three_arms_and_one_against_a_baseline_two() -> None:
    found = resolution(against_itself(3, 4, 0.0, 0.0), LOOKS, 0.03, 4)
    assert found["launch_seconds"] == pytest.approx(140.0)
    one = found["designs"][-1]  # without any noise the soonest look is enough
    rounds = one["design"]["looks"][-1]
    assert one["design"]["seconds"] == pytest.approx(rounds * (140 + 3 * one["design"]["requests"] * 2.5))
    assert one["stored"]["seconds"] == pytest.approx(rounds * (90 + 2 * one["stored"]["requests"] * 2.5))


def test_a_stored_baseline_adds_its_own_noise() -> None:
    found = resolution(against_itself(8, 8, 0.02, 0.01), LOOKS, 0.03, 8)
    assert all(one["stored"] > one["loss"] for one in found["seen"])
    # After 12 rounds against 12 the error is as of 6 rounds, by the looks' own quantile.
    twelve = found["seen"][-1]
    widened = smallest_loss(found["spread"] * math.sqrt(2), 12, 0.03, spent(len(LOOKS)), degrees=7)
    assert twelve["stored"] == pytest.approx(widened)
    assert found["baseline_rounds"] == 12


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
    few = resolution({**document, "samples": document["samples"][:9]}, LOOKS, 0.03, 8)
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
    assert "against a stored baseline of 12 rounds a loss of" in shown
    assert "with the base in the same rounds: gate.looks [" in shown
    assert "against a stored baseline of 12 rounds: gate.looks [" in shown
    assert "warning: drift: of something" in shown
    assert "in 80% of gates" in shown


def test_what_is_to_be_found_more_surely_is_larger_or_takes_longer() -> None:
    document = against_itself(8, 8, 0.02, 0.05)
    less, more = (resolution(document, LOOKS, 0.03, 8, wanted) for wanted in (0.6, 0.95))
    assert all(one["loss"] < other["loss"] for one, other in zip(less["seen"], more["seen"]))
    costs = [
        [one["design"] and one["design"]["seconds"] for one in found["designs"]] for found in (less, more)
    ]
    assert all(other is None or one < other for one, other in zip(*costs))
    assert "in 95% of gates" in text({**more, "warnings": []})


def test_a_design_of_so_few_answers_that_none_can_show_a_change_says_so() -> None:
    assert not tells_changed(3, looks=1)
    assert tells_changed(4, looks=1)
    assert not tells_changed(4, looks=4)
    assert tells_changed(5, looks=4)
    found = resolution(against_itself(8, 8, 0.001, 0.001), LOOKS, 0.03, 8)
    assert TOO_FEW in text({**found, "warnings": []})
