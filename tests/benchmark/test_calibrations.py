"""The scripts that measure how good the gate and the sweep are: each small, and that each can fail."""

from __future__ import annotations

import argparse
import math
from typing import Any

import pytest

from benchmarks import design_calibration, gate_calibration, sweep_published
from benchmarks.gate_calibration import DESIGNS, LOSSES, NOISES, Design, Tally
from speculators.benchmark.cost_model import StepTime
from speculators.benchmark.gate import OK, REGRESSION, Judged

FULL, FEW = Design("known", 12), Design("stored", 5)


def tallies(**changed: float) -> dict[tuple[float, float], Tally]:
    """Of a gate that is always right; ``changed``: what it says of a loss of 5 % with noise of 2 %."""
    right = {
        (noise, loss): Tally(float(loss > 0), float(loss == 0), 0.0, 5.0)
        for noise in NOISES
        for loss in LOSSES
    }
    return right | {(0.02, 0.05): right[0.02, 0.05]._replace(**changed)}


@pytest.mark.parametrize(
    ("changed", "design", "missed"),
    [
        ({}, FULL, 0),
        ({"ok": 0.0001}, FULL, 1),
        ({"regression": 0.89}, FULL, 1),
        ({"regression": 0.89, "ok": 0.0001}, FEW, 0),  # the gate itself calls these rounds too few
    ],
)
def test_a_missed_bar_is_one_where_it_is_asked_for(
    changed: dict[str, float], design: Design, missed: int
) -> None:
    assert sum(bar.missed for bar in gate_calibration.bars(tallies(**changed), design)) == missed


@pytest.mark.parametrize("design", DESIGNS)
def test_false_alarms_are_held_to_their_bar_in_every_design(design: Design) -> None:
    found = tallies() | {(0.10, 0.0): Tally(0.051, 0.0, 0.949, 12.0)}
    assert [bar.missed for bar in gate_calibration.bars(found, design)].count(True) == 1


def test_the_calibration_of_the_gate_fails_with_a_gate_that_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--gates", "20", "--design", "known 12"]
    assert gate_calibration.main(small) == 0
    assert "MISSED" not in capsys.readouterr().out
    monkeypatch.setattr(gate_calibration, "judge", lambda *_: Judged(0.0, 0.0, 0.0, OK))
    assert gate_calibration.main(small) == 1
    monkeypatch.setattr(gate_calibration, "judge", lambda *_: Judged(0.0, 0.0, 0.0, REGRESSION))
    assert gate_calibration.main(small) == 1
    assert "MISSED false alarms at most 5 % at every noise: at most 100.00%" in capsys.readouterr().out


def test_one_cell_is_shown_of_several_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    cell = ["--cell", "0.02", "0.08", "--seeds", "3", "--gates", "20", "--design", "stored 12"]
    assert gate_calibration.main(cell) == 0
    said = capsys.readouterr().out
    assert "stored 12, noise 2.0%, loss 8%, 3 seeds: regression 100.000% (100.00% to 100.00%)" in said


def an_outcome(**changed: float) -> design_calibration.Outcome:
    fair: dict[str, Any] = {"fixed": 0.97, "looking": 0.96, "looking_time": 0.8}
    fair |= {"chosen": 0.97, "time": 0.7, "rounds": 9.0, "requests": 8.0}
    return design_calibration.Outcome(**fair | changed)


@pytest.mark.parametrize(
    ("changed", "held"),
    [({}, [True, True]), ({"time": 0.71}, [False, True]), ({"chosen": 0.969, "time": 0.5}, [True, False])],
)
def test_a_design_that_is_soon_but_finds_less_misses(changed: dict[str, float], held: list[bool]) -> None:
    found = [("a", an_outcome()), ("b", an_outcome(**changed))]
    if "time" in changed:
        found[0] = ("a", an_outcome(time=changed["time"]))
    assert [holds for _, holds in design_calibration.bars(found)] == held


def test_a_design_is_chosen_on_a_simulated_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = list(design_calibration.machines())[
        -1
    ]  # of requests is most of its noise, and they cost little
    options = argparse.Namespace(draws=1, measured=12, seed=0, prompts=64)
    found = design_calibration.outcome(machine, design_calibration.RECIPE, options)
    assert found.fixed > 0.9
    assert 0 < found.time < 1
    for told, code in ((found._replace(time=0.5, chosen=1.0), 0), (found._replace(time=1.0), 1)):
        monkeypatch.setattr(design_calibration, "outcome", lambda *_, told=told: told)
        assert design_calibration.main([]) == code
        assert ("MISSED" in capsys.readouterr().out) == bool(code)


def test_the_sweep_is_within_its_bar_of_what_was_published(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep_published.main() == 0
    assert "larger batches: 8 cells, median error 13.0%" in capsys.readouterr().out
    # As if a proposed token cost nothing.
    monkeypatch.setattr(sweep_published, "fitted", lambda *_: (StepTime(1.0, *[0.0] * 6, math.inf), 2.6))
    assert sweep_published.main() == 1


def test_a_question_misses_by_its_median() -> None:
    questions = {"held out": [0.0, 0.11, 0.12], "another K": [0.1, 0.1, 0.9], "nothing": [float("nan")]}
    assert sweep_published.missed(questions) == ["held out", "nothing"]
