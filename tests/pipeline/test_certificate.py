"""A machine is asked once for each GPU, driver, package and code; what it fails is not used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from speculators.documents import read_json, write_json
from speculators.executors.base import StepResult
from speculators.executors.interior import Interior
from speculators.pipeline import certificate as certificates
from speculators.pipeline.certificate import (
    PARTS,
    Ground,
    certificate,
    certify_first,
    mismatches,
    status_row,
)
from speculators.pipeline.machine.gpu import Driver, Gpu
from speculators.pipeline.surroundings import HERE
from speculators.recipe.recipe import require_recipe
from speculators.stages.documents import read_input, write_output

ROOT = Path(__file__).parents[2]
SOUND = [
    {"name": "fast path against oracle, float32", "ok": True, "error": 2e-6, "bound": 1e-4, "cause": ""},
    {"name": "fast path against oracle, bfloat16", "ok": True, "error": 0.02, "bound": 0.05, "cause": ""},
]
RANKS = "20 steps on 4 ranks against one, fsdp"
WRONG = {"name": RANKS, "ok": False, "error": 0.3, "bound": 1e-3, "cause": ""}
H100 = Driver((Gpu("NVIDIA H100", 80 << 30, "570.1"),) * 4)


class Answering:
    """An executor whose steps leave the given checks."""

    def __init__(self, *checks: dict[str, Any]) -> None:
        self.checks, self.asked = checks, []

    def run(self, step, *, on_line=None, beside=None) -> StepResult:
        found = read_input(Path(step.argv[-1]))
        self.asked.append((found.stage, found.values, step.needs.gpus))
        result = {"device": "cuda", "name": "NVIDIA H100", "count": 4, "checks": list(self.checks)}
        write_output(found, result | {"not_checked": [], "objective": "fast", "parallelism": ["ddp"]}, 1.0)
        return StepResult(0, 1.0, step.log)

    def interior(self, role: str) -> Interior:
        return Interior("python", "3.11", {}, {}, None)

    def command(self, step) -> str:
        return ""


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch):
    found = {"driver": H100}
    monkeypatch.setattr(certificates, "look", lambda: found["driver"])
    return found


def ask(tmp_path: Path, executor: Answering, said: list[str] | None = None, **named) -> Path:
    ground = Ground(executor, HERE, tmp_path, (said if said is not None else []).append)
    return certificate(ground, PARTS["trainer"], "auto", **named)


def test_it_is_asked_once_for_each_gpu_driver_and_code(tmp_path: Path, driver, monkeypatch) -> None:
    executor = Answering(*SOUND)
    first = ask(tmp_path, executor)
    assert ask(tmp_path, executor) == first
    assert executor.asked == [("certify_trainer", {"device": "auto"}, True)]
    driver["driver"] = Driver((Gpu("NVIDIA B200", 180 << 30, "570.1"),))
    assert ask(tmp_path, executor) != first
    driver["driver"] = Driver((Gpu("NVIDIA H100", 80 << 30, "580.2"),) * 4)
    assert ask(tmp_path, executor) != first
    driver["driver"] = H100
    monkeypatch.setattr(certificates, "module_digest", lambda name: "other code")
    assert ask(tmp_path, executor) != first
    assert len(executor.asked) == 4
    ask(tmp_path, executor, fresh=True)
    assert len(executor.asked) == 5


def test_a_damaged_answer_is_asked_for_again(tmp_path: Path, driver) -> None:
    executor = Answering(*SOUND)
    path = ask(tmp_path, executor)
    path.write_text(path.read_text()[:-20])
    assert read_json(ask(tmp_path, executor))["result"]["checks"] == SOUND
    assert len(executor.asked) == 2


def recipe(**changes: str):
    overrides = [f"{name.replace('__', '.')}={value}" for name, value in changes.items()]
    return require_recipe(ROOT / "recipes" / "qwen3-8b-eagle3.yaml", overrides)


def test_a_training_on_gpus_asks_first_and_says_what_does_not_hold(
    tmp_path: Path, driver, monkeypatch
) -> None:
    monkeypatch.setattr(certificates, "has_cpu_engine", lambda: False)
    said: list[str] = []
    path = certify_first(Ground(Answering(*SOUND, WRONG), HERE, tmp_path, said.append), recipe())
    assert path is not None
    assert read_json(path)["identity"]["gpus"] == ["NVIDIA H100"] * 4
    assert said[-1] == (
        f"this machine computes something else: {RANKS}: 0.3 instead of at most 0.001; training goes "
        "round it, and says how"
    )


def test_a_training_on_the_cpu_is_not_held_up(tmp_path: Path, driver, monkeypatch) -> None:
    executor = Answering(*SOUND)
    monkeypatch.setattr(certificates, "has_cpu_engine", lambda: True)
    assert certify_first(Ground(executor, HERE, tmp_path, print), recipe()) is None
    in_cpu_images = recipe(executor="docker", container__images="cpu")
    assert certify_first(Ground(executor, HERE, tmp_path, print), in_cpu_images) is None
    assert executor.asked == []


def test_the_row_for_the_status_table(tmp_path: Path, driver) -> None:
    document = read_json(ask(tmp_path, Answering(*SOUND)))
    document["identity"]["environment"] = {"torch": "2.13.0", "python": "3.11"}
    assert status_row({"trainer": document}) == (
        "| Trainer on 4 x NVIDIA H100 (driver 570.1, torch 2.13.0) | certified by a user's machine | "
        "`speculators certify`: fast path against oracle within 0.02 |"
    )
    document["result"]["checks"].append(WRONG)
    assert (
        "| mismatch | `speculators certify`: 20 steps on 4 ranks against one, fsdp: 0.3 instead"
        in status_row({"trainer": document})
    )
    missing = {**WRONG, "error": None, "cause": "no kernel"}
    assert mismatches({"checks": [missing]}) == [f"{RANKS}: no kernel instead of at most 0.001"]


def test_what_is_kept_is_one_json_document(tmp_path: Path, driver) -> None:
    path = ask(tmp_path, Answering(*SOUND))
    assert json.loads(path.read_text())["schema"] == "speculators/certificate/v1"
    write_json(path, {**read_json(path), "identity": {}})
    executor = Answering(*SOUND)
    ask(tmp_path, executor)
    assert len(executor.asked) == 1
