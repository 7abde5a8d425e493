"""Who follows a training hears its figures, and neither breaks it nor hears more."""

from __future__ import annotations

import builtins
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from speculators.errors import MachineError
from speculators.recipe.schema import load_schema, schema_at
from speculators.stages.__main__ import main
from speculators.stages.documents import OUTPUT_NAME, TRACKS_NAME, StageInput, read_output, write_json
from speculators.training.files import METRICS_NAME
from speculators.training.metrics import Metrics, numbers, writing
from speculators.training.trackers import KINDS, open_trackers
from tests.models import tiny

SETTINGS = {"training.epochs": 2, "training.seed": 0, "algorithm.kind": "eagle3"}
FIGURES = {"step/loss": 2.5, "step/by_step/0": 1.5}


def test_the_recipe_offers_every_tracker_and_no_other() -> None:
    node = schema_at(load_schema(), ("training", "trackers"))
    assert node is not None
    assert set(node["items"]["enum"]) == set(KINDS)


class Listener:
    def __init__(self, breaks: bool = False) -> None:
        self.breaks, self.heard, self.closed = breaks, [], 0

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        if self.breaks:
            raise ConnectionError("the server is gone")
        self.heard.append((step, figures))

    def close(self) -> None:
        self.closed += 1


def test_a_row_is_a_line_and_its_numbers_reach_the_trackers(tmp_path: Path) -> None:
    listener = Listener()
    with writing(tmp_path / "metrics.jsonl", [listener]) as metrics:
        metrics.write("step", 3, loss=2.5, by_step=[1.0, 0.5], name="words", nothing=None, kept=True)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["by_step"] == [1.0, 0.5]
    assert listener.heard == [
        (3, {"step/loss": 2.5, "step/by_step/0": 1.0, "step/by_step/1": 0.5, "step/kept": 1.0})
    ]
    assert listener.closed == 1


def test_a_tracker_that_fails_is_let_go_with_a_word_and_the_others_go_on(tmp_path: Path) -> None:
    bad, good = Listener(breaks=True), Listener()
    said: list[str] = []
    with writing(tmp_path / "metrics.jsonl", [bad, good], said.append) as metrics:
        metrics.write("step", 1, loss=1.0)
        metrics.write("step", 2, loss=0.5)
    assert said == ["warning: Listener follows no longer: the server is gone"]
    assert [step for step, _ in good.heard] == [1, 2]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_rank_without_a_file_writes_nothing_and_numbers_are_found_at_any_depth() -> None:
    Metrics(None, (), print).write("step", 1, loss=1.0)
    assert dict(numbers({"a": {"b": [1, {"c": 2}]}}, "x")) == {"x/a/b/0": 1.0, "x/a/b/1/c": 2.0}


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_missing_package_is_the_machine_s_lack(name: str, tmp_path: Path, monkeypatch) -> None:
    real = builtins.__import__

    def absent(module: str, *arguments, **named):
        if module.split(".")[0] in ("tensorboard", "wandb", "mlflow") or module == "torch.utils.tensorboard":
            raise ModuleNotFoundError(f"No module named '{module}'")
        return real(module, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MachineError, match=f"names {name}, whose package is not here") as caught:
        open_trackers([name], tmp_path, SETTINGS, 0)
    assert f"speculators[{name}]" in caught.value.hint


def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"reached out to {address}")
        return connect(self, address)

    connect = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", refused)


@pytest.mark.parametrize(
    ("name", "module"),
    [("tensorboard", "tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow")],
)
def test_a_tracker_writes_below_its_folder_without_network_and_tells_no_secret(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(module)
    for variable in ("WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "secret" * 7)
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    no_network(monkeypatch)
    (tracker,) = open_trackers([name], tmp_path, SETTINGS, 4)
    tracker.log(5, FIGURES)
    tracker.close()
    written = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
    assert written
    text = b"".join(path.read_bytes() for path in written)
    assert b"step/loss" in text or any("loss" in str(path) for path in written)
    assert b"secret" not in text


def test_tensorboard_takes_back_what_an_interrupted_attempt_said_too_much(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, value in ((0, 1.0), (2, 2.0)):
        (tracker,) = open_trackers(["tensorboard"], tmp_path, SETTINGS, start)
        for step in range(start + 1, start + 4):
            tracker.log(step, {"step/loss": value})
        tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(one.step, one.value) for one in events.Scalars("step/loss")] == [
        (1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0),
    ]  # fmt: skip


def test_a_stage_keeps_what_its_trackers_wrote_outside_of_its_seal(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    world = tiny.write_world(tmp_path / "world")
    sealed = []
    for trackers in ([], ["tensorboard"]):
        values = {"algorithm": tiny.ALGORITHM, "training": {**tiny.TRAINING, "trackers": trackers}}
        output = tmp_path / f"output-{len(trackers)}"
        step = StageInput("training", values, world, {}, output)
        write_json(tmp_path / "input.json", step.document())
        assert main(str(tmp_path / "input.json")) == 0
        sealed.append(read_output(output)["files"])
        assert (output / OUTPUT_NAME).is_file()
        assert METRICS_NAME in os.listdir(output)
        assert (output / TRACKS_NAME).is_dir() == bool(trackers)
    assert sealed[0] == sealed[1]
