"""A machine is asked once for each GPU, driver, package and code; what it fails is not used."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from speculators.documents import read_json, write_json
from speculators.errors import StageError
from speculators.executors.base import StepResult
from speculators.executors.interior import Interior
from speculators.pipeline import certificate as certificates
from speculators.pipeline.certificate import (
    PARTS,
    Ground,
    certificate,
    certify_first,
    kernels,
    mismatches,
    refuse_engine,
    status_row,
)
from speculators.pipeline.machine.gpu import Driver, Gpu
from speculators.pipeline.surroundings import HERE, Surroundings
from speculators.recipe.recipe import require_recipe
from speculators.stages.documents import read_input, write_output
from speculators.stages.table import HIDDEN_STATES, PREPARED_STATES, PROMPTS, RESPONSES, TRAINING

ROOT = Path(__file__).parents[2]
SOUND = [
    {"name": "fast path against oracle, float32", "ok": True, "error": 2e-6, "bound": 1e-4, "cause": ""},
    {"name": "fast path against oracle, bfloat16", "ok": True, "error": 0.02, "bound": 0.05, "cause": ""},
]
RANKS = "20 steps on 4 ranks against one, fsdp"
WRONG = {"name": RANKS, "ok": False, "error": 0.3, "bound": 1e-3, "cause": ""}
H100 = Driver((Gpu("NVIDIA H100", 80 << 30, "570.1"),) * 4)


class Answering:
    """An executor whose steps leave the given checks, and what an engine's part found as ``problems``."""

    def __init__(self, *checks: dict[str, Any], problems: tuple[str, ...] = ()) -> None:
        self.checks, self.problems = checks, list(problems)
        self.asked: list[Any] = []
        self.seconds: list[float | None] = []

    def run(self, step, *, on_line=None, beside=()) -> StepResult:
        found = read_input(Path(step.argv[-1]))
        self.asked.append((found.stage, found.values, step.needs.gpus))
        self.seconds.append(step.seconds)
        result = {"device": "cuda", "name": "NVIDIA H100", "count": 4, "checks": list(self.checks)}
        write_output(found, result | {"not_checked": [], "problems": self.problems}, 1.0)
        return StepResult(0, 1.0, step.log)

    def interior(self, role: str) -> Interior:
        return Interior("python", "3.11", {}, {}, None)

    def command(self, step) -> str:
        return ""


class Crashing(Answering):
    """An executor whose steps a kernel takes down."""

    def run(self, step, *, on_line=None, beside=()) -> StepResult:
        self.asked.append(read_input(Path(step.argv[-1])).stage)
        return StepResult(128 + signal.SIGSEGV, 1.0, step.log)


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


def test_other_visible_devices_are_another_machine(tmp_path: Path, driver, monkeypatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    executor = Answering(*SOUND)
    found = {ask(tmp_path, executor)}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    found.add(ask(tmp_path, executor))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    for gpus in (1, 8, "all"):
        where = Surroundings({"trainer": "sha256:ab"}, gpus=gpus)
        found.add(certificate(Ground(executor, where, tmp_path, print), PARTS["trainer"], "auto"))
    assert len(found) == len(executor.asked) == 5
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    cpu = [certificate(Ground(executor, HERE, tmp_path, print), PARTS["trainer"], "cpu")]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert cpu == [certificate(Ground(executor, HERE, tmp_path, print), PARTS["trainer"], "cpu")]


def test_a_damaged_answer_is_asked_for_again(tmp_path: Path, driver) -> None:
    executor = Answering(*SOUND)
    path = ask(tmp_path, executor)
    path.write_text(path.read_text()[:-20])
    assert read_json(ask(tmp_path, executor))["result"]["checks"] == SOUND
    assert len(executor.asked) == 2


def recipe(**changes: str):
    overrides = [f"{name.replace('__', '.')}={value}" for name, value in changes.items()]
    return require_recipe(ROOT / "recipes" / "qwen3-8b-eagle3.yaml", overrides)


@pytest.fixture
def on_gpus(driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "has_cpu_engine", lambda: False)


def test_a_training_on_gpus_asks_first_and_says_what_does_not_hold(tmp_path: Path, on_gpus) -> None:
    said: list[str] = []
    ground = Ground(Answering(*SOUND, WRONG), HERE, tmp_path, said.append)
    found = certify_first(ground, recipe(), [TRAINING])
    assert found.keys() == {"trainer"}
    assert read_json(found["trainer"])["identity"]["gpus"] == ["NVIDIA H100"] * 4
    assert said[-1] == f"does not hold on this machine: {RANKS}: 0.3 instead of at most 0.001"


def test_the_engine_is_asked_before_what_it_makes_is_paid_for(tmp_path: Path, on_gpus) -> None:
    executor = Answering(*SOUND)
    ground = Ground(executor, HERE, tmp_path, print)
    assert certify_first(ground, recipe(), [PROMPTS]) == {}
    assert certify_first(ground, recipe(), [PREPARED_STATES]) == {}
    assert certify_first(ground, recipe(), [RESPONSES, HIDDEN_STATES, TRAINING]).keys() == PARTS.keys()
    assert certify_first(ground, recipe(), [HIDDEN_STATES]).keys() == {"engine"}
    assert [stage for stage, _, _ in executor.asked] == ["certify_trainer", "certify_engine"]
    first, second = executor.seconds
    assert second < first < 120


def test_the_engine_is_asked_with_the_kernels_that_the_recipe_chooses(tmp_path: Path, driver) -> None:
    chosen = recipe(engine__args__attention_backend="TRITON_ATTN", engine__env__A="1")
    executor = Answering(*SOUND)
    for one in (recipe(), chosen):
        certificate(Ground(executor, HERE, tmp_path, print, kernels(one)), PARTS["engine"], "auto")
    assert executor.asked[1][1]["engine"]["args"] == {"attention_backend": "TRITON_ATTN"}
    assert "A" in executor.asked[1][1]["engine"]["env"]
    assert executor.asked[0][1]["engine"]["args"] == {}


def test_an_engine_that_hands_out_other_states_stops_the_run(tmp_path: Path, on_gpus) -> None:
    wrong = "the states called layer 2 differ from it by 0.9"
    ground = Ground(Answering(*SOUND, problems=(wrong,)), HERE, tmp_path, print)
    found = {name: read_json(path) for name, path in certify_first(ground, recipe(), [RESPONSES]).items()}
    with pytest.raises(StageError, match=wrong) as caught:
        refuse_engine(found)
    assert "certify RECIPE --fresh" in caught.value.hint
    refuse_engine({"trainer": {"result": {}}})


def test_questions_that_crash_are_not_trusted_and_asked_again(tmp_path: Path, on_gpus) -> None:
    executor, said = Crashing(), []
    for _ in range(2):
        ground = Ground(executor, HERE, tmp_path, said.append)
        paths = certify_first(ground, recipe(), [RESPONSES, TRAINING])
    assert executor.asked == ["certify_trainer", "certify_engine"] * 2
    found = {name: read_json(path) for name, path in paths.items()}
    result = found["trainer"]["result"]
    assert (result["objective"], result["parallelism"]) == ({}, {})
    assert said[1] == (
        "does not hold on this machine: answers of certify_trainer: certify_trainer failed after 1.0 s: "
        "exit code 139"
    )
    refuse_engine(found)  # its golden probe asks again, of the real verifier
    assert status_row(found).startswith("| Trainer and engine on NVIDIA H100 (driver 570.1, ")
    assert "| mismatch | `speculators certify`: answers of certify_trainer: " in status_row(found)


def test_what_runs_on_the_cpu_is_not_held_up(tmp_path: Path, driver, monkeypatch) -> None:
    executor = Answering(*SOUND)
    monkeypatch.setattr(certificates, "has_cpu_engine", lambda: True)
    ground, stages = Ground(executor, HERE, tmp_path, print), [RESPONSES, TRAINING]
    assert certify_first(ground, recipe(), stages) == {}
    assert certify_first(ground, recipe(executor="docker", container__images="cpu"), stages) == {}
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
    assert mismatches({"checks": [missing]}) == [f"{RANKS}: no kernel"]


def test_what_is_kept_is_one_json_document(tmp_path: Path, driver) -> None:
    path = ask(tmp_path, Answering(*SOUND))
    assert json.loads(path.read_text())["schema"] == "speculators/certificate/v1"
    write_json(path, {**read_json(path), "identity": {}})
    executor = Answering(*SOUND)
    ask(tmp_path, executor)
    assert len(executor.asked) == 1
