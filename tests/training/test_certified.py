"""A training takes what its machine was found to compute right: the oracle, or one device, and says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from speculators.documents import read_json, write_json
from speculators.errors import MachineError
from speculators.stages.__main__ import main
from speculators.stages.documents import OUTPUT_NAME, StageInput
from speculators.stages.trust import judge_torchrun
from speculators.training.files import METRICS_NAME
from speculators.training.loop import DTYPES
from tests.models import tiny

FAILED = {"name": "fast path against oracle, one layer, float32", "ok": False}


def train(
    folder: Path, result: dict[str, Any] | None, kind: str = "eagle3", **changes: Any
) -> tuple[dict[str, Any], list[float]]:
    """The stage's result and its losses, on a machine of which ``result`` is known."""
    world = tiny.write_world(folder / "world")
    files = {}
    if result:
        files = {"certificate": [folder / "certificate.json"]}
        write_json(folder / "certificate.json", {"result": result})
    values = {"algorithm": tiny.ALGORITHMS[kind], "training": {**tiny.TRAINING, **changes}}
    write_json(folder / "input.json", StageInput("training", values, world, files, folder / "out").document())
    assert main(str(folder / "input.json")) == 0
    rows = [json.loads(line) for line in (folder / "out" / METRICS_NAME).read_text().splitlines()]
    found = read_json(folder / "out" / OUTPUT_NAME)["result"]
    return found, [row["loss"] for row in rows if row["kind"] == "step"]


SOUND = {"float32": "fast", "bfloat16": "fast"}
MISMATCH = {
    "objective": {"float32": "oracle", "bfloat16": "oracle"},
    "parallelism": {"ddp": True},
    "checks": [FAILED, {"ok": True}],
}


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("kind", ["eagle3", "peagle"])
def test_a_machine_that_fails_is_taught_by_the_oracle_to_the_same_losses(
    tmp_path: Path, capsys, kind: str, precision: str
) -> None:
    """In single precision, whatever the recipe wants: what else holds there has not been asked."""
    sound, losses = train(tmp_path / "sound", None, kind)
    wrong, slow = train(tmp_path / "wrong", MISMATCH, kind, precision=precision)
    assert (sound["objective"], sound["mismatches"]) == ("fast", [])
    assert (wrong["objective"], wrong["mismatches"]) == ("oracle", [FAILED["name"]])
    assert (
        f"not trusted on this machine: {FAILED['name']}; training by the slow oracle in float32"
        in capsys.readouterr().out
    )
    assert slow == pytest.approx(losses, rel=1e-4)
    assert slow != losses


def test_a_kind_without_an_oracle_is_taught_in_single_precision(tmp_path: Path, capsys) -> None:
    _, losses = train(tmp_path / "sound", None, "dflash")
    wrong, slow = train(tmp_path / "wrong", MISMATCH, "dflash", precision="bfloat16")
    assert (wrong["objective"], slow) == ("fast", losses)
    assert (
        "training by plain torch, which has no oracle to be checked by, in float32" in capsys.readouterr().out
    )


@pytest.mark.parametrize("precision", DTYPES)
def test_what_fails_in_half_precision_alone_is_taught_as_fast_in_single(
    tmp_path: Path, capsys, precision: str
) -> None:
    answer = {**MISMATCH, "objective": {"float32": "fast", "bfloat16": "oracle"}}
    _, losses = train(tmp_path / "sound", None)
    found, taught = train(tmp_path / "half", answer, precision=precision)
    assert (found["objective"], taught) == ("fast", losses)
    said = "training by the same objective in float32" in capsys.readouterr().out
    assert said == (precision == "bfloat16")


@pytest.mark.parametrize(
    ("parallelism", "doubt"),
    [
        (
            {"ddp": False, "fsdp": True},
            "several of them were not found to learn here what one does (ddp)",
        ),
        ({}, "whether several of them learn what one does (ddp) was not asked here; `speculators certify"),
    ],
    ids=["failed", "not asked"],
)
def test_ranks_that_are_not_known_to_learn_what_one_does_are_not_used(
    tmp_path: Path, capsys, parallelism: dict[str, bool], doubt: str
) -> None:
    answer = {"objective": SOUND, "parallelism": parallelism, "checks": []}
    found, _ = train(tmp_path, answer, devices=2, sequences_per_step=2)
    assert found["devices"] == 1
    assert f"training on one device: {doubt}" in capsys.readouterr().out


def test_torchrun_by_hand_is_refused_what_was_found_wrong_and_told_what_was_not_asked(capsys) -> None:
    with pytest.raises(MachineError, match=r"torchrun started 2 processes.*what one does \(ddp\)") as caught:
        judge_torchrun({"parallelism": {"ddp": False, "fsdp": True}}, "ddp", 2, leads=True)
    assert caught.value.hint.startswith(
        "start one process or training.parallelism: fsdp; `speculators certify"
    )
    assert caught.value.rule == "ranks-differ"
    for trusted in ({}, {"ddp": True}):
        judge_torchrun({"parallelism": trusted}, "ddp", 2, leads=True)
    judge_torchrun({"parallelism": {"ddp": False}}, "ddp", 1, leads=True)
    assert capsys.readouterr().out.count("was not asked here") == 1
