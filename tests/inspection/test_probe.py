"""The probe names the one change that a really trained draft lost, and says nothing of the sound one."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from speculators.checkpoint.vocabulary import from_offsets
from speculators.cli.app import main
from speculators.datagen.verifier import facts
from speculators.documents import canonical_json, read_json, write_json, write_jsonl
from speculators.executors.base import Step
from speculators.executors.local import LocalExecutor
from speculators.inspection.answers import BENCHMARK, TOKENS, answered
from speculators.inspection.blame import EXPORT, TEXT, TRAINING, blame
from speculators.inspection.neighbours import layer_ids
from speculators.inspection.probe import Texts, finding
from speculators.inspection.probing import probe_draft, whole_draft
from speculators.serving.environment import engine_environment
from speculators.stages.documents import StageInput, write_output
from speculators.stages.replay import differs
from tests.benchmark.conftest import document, spec
from tests.inspection.faults import IDS, Subject, config, forget, layer, permuted_fc, random_like, tensors
from tests.inspection.trained import learnt
from tests.models.words import ENGINE_ARGS, ENGINE_ENV
from tests.needs import needing

# It trains: the rest of the tests of this room need no trained draft.
pytestmark = pytest.mark.integration


class World(NamedTuple):
    draft: Path
    verifier: Path
    texts: Texts


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(*learnt(tmp_path_factory.mktemp("learnt")))


def broken(world: World, folder: Path, *changes: Callable[[Subject], object]) -> Path:
    """A copy of the draft, without the record of its training, changed."""
    shutil.copytree(world.draft, folder)
    subject = Subject(folder, world.verifier, 0)
    forget(subject)
    for change in changes:
        change(subject)
    return folder


ROPE = {"rope_type": "default", "rope_theta": 10000.0}


def absolute(found: dict[str, torch.Tensor]) -> None:
    found["d2t"] = from_offsets(found["d2t"])


#: What was done to the draft, and what the probe must say would mend it.
MISTAKES: dict[str, tuple[Callable[[Subject], object], str]] = {
    "layers one late": (config(**{IDS: [2, 3, 4]}), f"{IDS} [1, 2, 3]"),
    "layers one early": (config(**{IDS: [0, 1, 2]}), f"{IDS} [1, 2, 3]"),
    "one layer off": (config(**{IDS: [1, 2, 4]}), f"{IDS} [1, 2, 3]"),
    "norm_before_residual flipped": (config(norm_before_residual=False), "norm_before_residual true"),
    "RoPE base another": (
        layer(rope_parameters={**ROPE, "rope_theta": 5e5}),
        f"rope_parameters {canonical_json(ROPE)}",
    ),
    "fc in another order": (tensors(permuted_fc), "fc's columns are for layers [3, 2, 1]"),
    "d2t absolute": (tensors(absolute), "d2t read as absolute ids"),
    "embedding random": (random_like("embed_tokens.weight"), "the verifier's embedding"),
    "head random": (random_like("lm_head.weight"), "the verifier's head rows by d2t"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_the_change_that_restores_accuracy_is_named(name: str, world: World, tmp_path: Path) -> None:
    change, mended = MISTAKES[name]
    probed = probe_draft(broken(world, tmp_path / "draft", change), world.verifier, world.texts)
    assert probed.result.best is not None
    assert probed.result.best.neighbour.change == mended
    found = finding(probed.result)
    assert found is not None
    assert found.is_defect
    assert mended in found.what


def test_nothing_is_said_of_the_sound_draft(world: World) -> None:
    probed = probe_draft(world.draft, world.verifier, world.texts)
    given = probed.result.given
    assert given is not None
    assert given.first > 0.7
    assert finding(probed.result) is None
    assert probed.document()["neighbours"] > 12


def test_what_is_served_as_another_layer_is_blamed_on_the_engine_and_named(world: World) -> None:
    stored, _ = whole_draft(world.draft, world.verifier)
    assert layer_ids(stored)[1] == [1, 2, 3]
    probed = probe_draft(world.draft, world.verifier, world.texts)
    (early,) = [one for one in probed.result.tried if one.neighbour.change.endswith("[0, 1, 2]")]
    assert early.score is not None
    served = early.score.tally.document()  # an engine that captures each state one layer early
    again = probe_draft(world.draft, world.verifier, world.texts, served)
    assert again.blame is not None
    assert again.blame.half == EXPORT
    assert again.alike is not None
    assert again.alike.neighbour.change == f"{IDS} [0, 1, 2]"
    assert "from the first position on" in again.blame.said
    said = again.document()["said"]
    assert f"it is served as if {IDS} [0, 1, 2]; none guesses better" in said


def write_run(folder: Path, world: World, *accepted: int) -> Path:
    """As much of a run as the probe reads: its plain arm's answers, and what its draft was served with."""
    rows = [
        {
            "id": one.id,
            "prompt_token_ids": one.token_ids[: one.prompt_tokens].tolist(),
            "output_token_ids": one.token_ids[one.prompt_tokens :].tolist(),
            "text": f"answer {one.id}",
            "looping": False,
        }
        for one in world.texts.documents
    ]
    benchmark = document([(10, 12)])
    for measured in benchmark["samples"]:
        measured["counters"] = spec(100, *accepted) if measured["arm"] == "draft" else None
    (folder / TOKENS).parent.mkdir(parents=True)
    write_jsonl(folder / TOKENS, rows)
    write_json(folder / BENCHMARK, {"result": benchmark})
    return folder


def test_the_command_line_probes_on_a_run_and_splits_the_blame(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", world, 5, 0)
    assert main(["inspect", str(world.draft), "--probe", "--run", str(run)]) == 0
    said = capsys.readouterr().out
    assert "probe: 12 answers, 453 tokens" in said
    assert "no neighbour guesses better" in said
    assert "blame: export or engine: it guesses 2." in said
    wrong = broken(world, tmp_path / "wrong", config(**{IDS: [2, 3, 4]}))
    assert main(["inspect", str(wrong), "--run", str(run), "--json"]) == 6
    report = json.loads(capsys.readouterr().out)
    assert report["findings"][0]["name"] == "a neighbour drafts better"
    assert report["probe"]["best"]["change"] == f"{IDS} [1, 2, 3]"


@needing("vllm")
def test_a_run_whose_prediction_was_missed_probes_itself(world: World, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", world, 5, 0)
    inputs = {"verifier": tmp_path / "verifier", "package": tmp_path / "package", "benchmark": run / "bench"}
    shutil.copytree(world.verifier, inputs["verifier"] / "model")
    shutil.copytree(world.draft, inputs["package"] / "model")
    known = {"facts": facts(world.verifier, trust_remote_code=False), "trust_remote_code": False}
    write_output(StageInput("verifier", {}, {}, {}, inputs["verifier"]), known, 0.0)
    step = StageInput("replay", {"engine": {"args": ENGINE_ARGS}}, inputs, {}, tmp_path / "replay")
    write_json(tmp_path / "input.json", step.document())
    argv = [sys.executable, "-m", "speculators.stages", str(tmp_path / "input.json")]
    log = tmp_path / "replay.log"
    done = LocalExecutor().run(Step("replay", argv, engine_environment(ENGINE_ENV), log))
    assert done.exit_code == 0, log.read_text()[-4000:]
    probed = read_json(tmp_path / "replay" / "replay.json")["probe"]
    assert probed["blame"]["half"] == EXPORT
    assert probed["best"] is None  # on the states that vLLM captured too, the config is the weights'
    assert probed["neighbours"] > 12
    assert probed["first"] > 0.7


def test_a_verifier_is_asked_where_no_run_is_given(world: World) -> None:
    texts = answered(world.verifier)
    assert len(texts.documents) == 8
    assert texts.layers == (0, 1, 2, 3, 4)
    assert all(len(one.token_ids) > one.prompt_tokens for one in texts.documents)
    assert texts.documents[0].hidden_states.shape == (len(texts.documents[0].token_ids), 5, 64)


RATES = [0.6, 0.4, 0.2]


@pytest.mark.parametrize(
    ("predicted", "served", "half", "says"),
    [
        (RATES, RATES, TRAINING, "export and engine are sound"),
        (RATES, [0.1, 0.0, 0.0], EXPORT, "from the first position on"),
        (RATES, [0.6, 0.2, 0.0], EXPORT, "from position 1 on: what is fed back"),
        ([0.1, 0.0, 0.0], RATES, TEXT, "not the same text"),
    ],
)
def test_the_blame_is_split(predicted: list[float], served: list[float], half: str, says: str) -> None:
    def figures(rates: list[float]) -> dict[str, Any]:
        return {"acceptance_length": 1 + sum(rates), "per_position": rates}

    found = blame(figures(predicted), figures(served))
    assert found is not None
    assert found.half == half
    assert says in found.said
    assert blame(figures(predicted), {"acceptance_length": None}) is None


def test_a_report_probes_by_itself_beyond_five_per_cent_only() -> None:
    assert differs({"difference": 0.06})
    assert differs({"difference": -0.06})
    assert not differs({"difference": 0.05})
    assert not differs({"difference": None})
