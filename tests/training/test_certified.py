"""A training takes what its machine was found to compute right: the oracle, or one device, and says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from speculators.documents import read_json, write_json
from speculators.stages.__main__ import main
from speculators.stages.documents import OUTPUT_NAME, StageInput
from speculators.training.files import METRICS_NAME
from tests.models import tiny

FAILED = {"name": "fast path against oracle, one layer, float32", "ok": False}


def train(folder: Path, result: dict[str, Any] | None, **changes: Any) -> tuple[dict[str, Any], list[float]]:
    """The stage's result and its losses, on a machine of which ``result`` is known."""
    world = tiny.write_world(folder / "world")
    files = {}
    if result:
        files = {"certificate": [folder / "certificate.json"]}
        write_json(folder / "certificate.json", {"result": result})
    values = {"algorithm": tiny.ALGORITHM, "training": {**tiny.TRAINING, **changes}}
    write_json(folder / "input.json", StageInput("training", values, world, files, folder / "out").document())
    assert main(str(folder / "input.json")) == 0
    rows = [json.loads(line) for line in (folder / "out" / METRICS_NAME).read_text().splitlines()]
    found = read_json(folder / "out" / OUTPUT_NAME)["result"]
    return found, [row["loss"] for row in rows if row["kind"] == "step"]


def test_a_machine_that_fails_is_taught_by_the_oracle_to_the_same_losses(tmp_path: Path) -> None:
    sound, losses = train(tmp_path / "sound", None)
    wrong, slow = train(
        tmp_path / "wrong", {"objective": "oracle", "parallelism": ["ddp"], "checks": [FAILED, {"ok": True}]}
    )
    assert (sound["objective"], sound["mismatches"]) == ("fast", [])
    assert (wrong["objective"], wrong["mismatches"]) == ("oracle", [FAILED["name"]])
    assert slow == pytest.approx(losses, rel=1e-4)
    assert slow != losses


def test_ranks_that_do_not_learn_what_one_does_are_not_used(tmp_path: Path, capsys) -> None:
    answer = {"objective": "fast", "parallelism": ["fsdp"], "checks": []}
    found, _ = train(tmp_path, answer, devices=2, sequences_per_step=2)
    assert found["devices"] == 1
    assert (
        "training on one device: several of them did not learn here what one does" in capsys.readouterr().out
    )
