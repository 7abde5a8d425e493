"""A benchmark under a gate: how many rounds it measures, what it leaves, and what it refuses beforehand.

The executor is replaced: its servers serve nothing, its clients leave loads of a chosen speed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from speculators.benchmark.arms import NOBODY, Base, Opponent
from speculators.benchmark.measurement import Measurement, measurement
from speculators.documents import known_json, read_json, write_json
from speculators.errors import RecipeError, StageError
from speculators.executors.base import Endpoint, OnLine, Service, Step, StepResult
from speculators.executors.local import LocalExecutor
from speculators.pipeline import keys
from speculators.pipeline.choice import Choice
from speculators.pipeline.console import Console
from speculators.pipeline.measure import measure
from speculators.pipeline.plan import stage_names
from speculators.pipeline.record import RunRecord
from speculators.pipeline.run import report
from speculators.pipeline.running import Run
from speculators.pipeline.store import Store
from speculators.recipe.recipe import require_recipe
from speculators.stages.documents import StageInput, read_input, write_output
from tests.benchmark.conftest import draft_rows, plain_rows, sample


@pytest.fixture(autouse=True)
def guidellm_of_the_stored_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that ``sample`` names, whichever is installed."""
    installed = keys._version
    monkeypatch.setattr(
        keys, "_version", cache(lambda name: "0.8.1" if name == "guidellm" else installed(name))
    )


RECIPE = Path(__file__).parents[2] / "recipes" / "smollm2-135m-eagle3.yaml"
SPREAD = (1.00, 1.01, 0.99, 1.005, 0.995)
PLAINLY = (
    "benchmark.concurrency=[1]",
    "benchmark.requests=3",
    "benchmark.extra_arms=[]",
    "benchmark.depths=[]",
)
VERIFIER = {"num_hidden_layers": 4, "hidden_size": 8, "vocab_size": 64}
ITSELF = Opponent(itself=True)
Speeds = Callable[[int], float]


class Executor(LocalExecutor):
    """Leaves what the client of a launch would leave; ``speedup`` is the draft's of a round."""

    def __init__(self, speedup: Speeds) -> None:
        super().__init__()
        self.speedup = speedup
        self.base = 1.0  # the base arm's speed over the draft's
        self.engine = 1.0  # of our engine settings over the base's, in every arm
        self.launched: list[str] = []
        self.longer: dict[int, int] = {}  # tokens that the draft says more, by round
        self.drafts = True  # whether the draft proposes anything

    @contextmanager
    def serve(self, service: Service) -> Iterator[Endpoint]:
        self.launched.append(service.name)
        service.log.parent.mkdir(parents=True)
        service.log.touch()
        yield Endpoint(service.name, "http://127.0.0.1:1", "serve", service.log, lambda: None)

    def run(
        self, step: Step, *, on_line: OnLine | None = None, beside: Sequence[Endpoint] = ()
    ) -> StepResult:
        document = read_input(Path(step.argv[-1]))
        step.log.touch()
        if not beside:  # the replay
            return StepResult(1, 0.1, step.log)
        write_json(document.output / "result.json", self.result(document.values))
        write_output(document, {}, seconds=1.0)
        return StepResult(0, 1.0, step.log)

    def result(self, values: dict[str, Any]) -> dict[str, Any]:
        number, arm = values["round"], values["launches"][0]["arm"]
        speed, rows = (
            (10.0, plain_rows()) if arm.endswith("plain") else (10 * self.speedup(number), draft_rows())
        )
        speed *= self.base if arm == "base" else 1.0
        speed *= self.engine if not arm.startswith("base") else 1.0
        loads = [
            sample(number, arm, load, speed, rows, wall_seconds=1.0)
            for load in values["benchmark"]["concurrency"]
        ]
        for load in loads if arm == "draft" else []:
            load["output_tokens"] += self.longer.get(number, 0)
            load["counters"] = load["counters"] if self.drafts else None
        return {"arm": arm, "round": number, "loads": loads}


def output(folder: Path, stage: str, result: dict[str, Any]) -> Path:
    """A sealed output as far as the benchmark looks into it."""
    write_json(folder / "model" / "config.json", {"speculators_model_type": "eagle3", **VERIFIER})
    write_output(StageInput(stage, {}, {}, {}, folder), result, seconds=1.0)
    return folder


def a_run(
    folder: Path,
    speedup: Speeds,
    baseline: Measurement | None = None,
    *overrides: str,
    against: Opponent = NOBODY,
) -> Run:
    """A run of the default recipe at one load, up to its benchmark."""
    recipe = require_recipe(RECIPE, [*PLAINLY, *overrides])
    record = RunRecord(folder / "runs", recipe, anew=True)
    choice = Choice().bound(stage_names(recipe))
    console = Console(io.StringIO())
    run = Run(
        recipe,
        record,
        Store(folder / "home"),
        Executor(speedup),
        console,
        choice,
        against=against or Opponent(stored=baseline),
    )
    results = {
        "verifier": {"digest": "v" * 64},
        "prompts": {"benchmark": 3},
        "package": {"digest": "d" * 64, "speculative_tokens": 2},
    }
    for name, result in results.items():
        run.outputs[name] = output(folder / "outputs" / record.id / name, name, result)
        record.add_stage({"name": name, "action": "run", "seconds": 1.0, "result": result})
    write_json(record.stage_folder("prompts") / "key.json", {"files": {"benchmark.prompts": ["p"]}})
    return run


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Measurement:
    run = a_run(
        tmp_path_factory.mktemp("baseline"),
        lambda number: 1.3 * SPREAD[number % 5],
        None,
        "benchmark.rounds=12",
    )
    measure(run)
    bench = run.record.folder / "bench"
    result = read_json(bench / "output.json")["result"]
    return measurement(run.record.document, read_json(bench / "key.json"), ["p"], result)


def gated(tmp_path: Path, speedup: Speeds, baseline: Measurement, *overrides: str) -> dict[str, Any]:
    """What a gated run leaves, with its launches."""
    run = a_run(tmp_path, speedup, baseline, *overrides)
    measure(run)
    assert isinstance(run.executor, Executor)
    found = {
        "launches": len(run.executor.launched),
        "gate": run.record.document["gate"],
        "comparison": known_json(run.record.folder / "comparison.json"),
        "rounds": read_json(run.record.folder / "bench" / "output.json")["result"]["benchmark"]["rounds"],
    }
    assert found["gate"]["verdict"] == found["comparison"]["verdict"]
    return found


def test_as_fast_as_before_is_ok_at_the_first_look(tmp_path: Path, baseline: Measurement) -> None:
    found = gated(tmp_path, lambda number: 1.3 * SPREAD[number % 5], baseline)
    assert (found["gate"]["verdict"], found["rounds"], found["launches"]) == ("ok", 5, 10)
    assert found["gate"]["against"] == baseline.run


def test_a_slower_engine_is_a_regression_of_speed(tmp_path: Path, baseline: Measurement) -> None:
    found = gated(tmp_path, lambda number: 1.15 * SPREAD[number % 5], baseline)
    assert (found["gate"]["verdict"], found["rounds"]) == ("regression", 5)
    assert "acceptance held and speed fell" in found["gate"]["causes"][0]


def test_doubt_measures_more_rounds_and_may_stay(tmp_path: Path, baseline: Measurement) -> None:
    found = gated(tmp_path, lambda number: 1.3 * (1.2, 0.8)[number % 2], baseline)
    assert (found["gate"]["verdict"], found["rounds"], found["launches"]) == ("undecided", 12, 24)


def test_the_recipe_says_when_to_look(tmp_path: Path, baseline: Measurement) -> None:
    wide = ("benchmark.gate.looks=[3]", "benchmark.gate.speed_tolerance=0.5")
    assert gated(tmp_path, lambda _: 1.3, baseline, *wide)["rounds"] == 3


def test_other_work_is_refused_before_a_server_starts(tmp_path: Path, baseline: Measurement) -> None:
    run = a_run(tmp_path, lambda _: 1.3, baseline, "benchmark.max_tokens=32")
    with pytest.raises(RecipeError, match=r"benchmark.max_tokens is 64 in .*, 32 in") as caught:
        measure(run)
    assert caught.value.rule == "not-comparable"
    assert isinstance(run.executor, Executor)
    assert run.executor.launched == []


def test_a_baseline_that_thought_otherwise_is_refused(tmp_path: Path, baseline: Measurement) -> None:
    thought = baseline._replace(work=baseline.work | {"request body": {"chat_template_kwargs": {"x": 1}}})
    with pytest.raises(RecipeError, match=r"other work: request body is .*'x': 1.* none in"):
        measure(a_run(tmp_path, lambda _: 1.3, thought))


def test_another_load_generator_is_refused_before_a_server_starts(
    tmp_path: Path, baseline: Measurement
) -> None:
    run = a_run(tmp_path, lambda _: 1.3, baseline._replace(instrument={"guidellm": "0.1.0"}))
    with pytest.raises(RecipeError, match=r"guidellm is 0\.1\.0 in"):
        measure(run)
    assert isinstance(run.executor, Executor)
    assert run.executor.launched == []


def test_a_load_that_the_baseline_lacks_is_refused(tmp_path: Path, baseline: Measurement) -> None:
    with pytest.raises(RecipeError, match="no load"):
        measure(a_run(tmp_path, lambda _: 1.3, baseline, "benchmark.concurrency=[4]"))


def test_a_baseline_of_one_round_is_refused_and_this_run_not_blamed_for_it(
    tmp_path: Path, baseline: Measurement
) -> None:
    once = tuple(load._replace(speedups=load.speedups[:1]) for load in baseline.loads)
    run = a_run(tmp_path, lambda _: 1.3, baseline._replace(loads=once))
    with pytest.raises(RecipeError, match=f"{baseline.run} has one round") as caught:
        measure(run)
    assert run.record.id not in str(caught.value)


def test_arms_that_did_other_work_are_not_comparable_and_end_the_gate(
    tmp_path: Path, baseline: Measurement
) -> None:
    found = gated(tmp_path, lambda _: 9.0, baseline)  # more than the acceptance length allows
    assert (found["gate"]["verdict"], found["launches"]) == ("not comparable", 10)
    (reason,) = found["comparison"]["reasons"]
    assert ": possible: at 1: speedup at least 9.00" in reason
    assert found["comparison"]["figures"] == []


def test_one_bad_round_ends_the_gate_at_once_and_the_sound_ones_are_kept(
    tmp_path: Path, baseline: Measurement
) -> None:
    run = a_run(tmp_path, lambda number: 1.3 * SPREAD[number % 5], baseline)
    assert isinstance(run.executor, Executor)
    run.executor.longer = {2: 1}
    measure(run)
    assert len(run.executor.launched) == 4
    (reason,) = read_json(run.record.folder / "comparison.json")["reasons"]
    assert reason.endswith("differ by at most 3.33% (allowed 1%), in round 2 at 1")
    assert run.record.document["gate"]["verdict"] == "not comparable"
    with pytest.raises(StageError, match="the comparison is broken") as caught:
        report(run)
    assert "keeps the sound rounds and measures the broken one again" in (caught.value.hint or "")
    run.record.continued = True
    run.executor.longer, run.executor.launched = {}, []
    measure(run)
    assert run.executor.launched[:3] == ["draft round 2", "plain round 2", "plain round 3"]
    assert run.record.document["gate"]["verdict"] == "ok"
    remarks = read_json(run.record.folder / "comparison.json")["remarks"]
    assert any(one.startswith("round 2 was measured again, for at first output tokens") for one in remarks)


def test_a_draft_that_proposes_nothing_is_not_comparable_at_once(
    tmp_path: Path, baseline: Measurement
) -> None:
    run = a_run(tmp_path, lambda number: 1.3 * SPREAD[number % 5], baseline)
    assert isinstance(run.executor, Executor)
    run.executor.drafts = False
    measure(run)
    assert len(run.executor.launched) == 2, "one round shows it"
    assert run.record.document["gate"]["verdict"] == "not comparable"
    with pytest.raises(StageError, match="0 of 1 draft loads drafted") as caught:
        report(run)
    assert "change the setting that the check names" in (caught.value.hint or "")


def test_what_is_broken_in_all_rounds_is_not_kept(tmp_path: Path, baseline: Measurement) -> None:
    run = a_run(tmp_path, lambda _: 9.0, baseline)
    measure(run)
    with pytest.raises(StageError, match=r"speedup at least 9\.00"):
        report(run)
    assert not (run.record.folder / "bench" / "key.json").exists()


def test_what_speaks_against_the_machine_stands_beside_the_verdict(
    tmp_path: Path, baseline: Measurement
) -> None:
    found = gated(tmp_path, lambda number: 1.3 * (1.2, 0.8)[number % 2], baseline)
    assert any("speedups of the rounds scatter by" in one for one in found["comparison"]["remarks"])


def a_base(folder: Path, **others: int) -> Base:
    layer = {name: value for name, value in VERIFIER.items() if name != "num_hidden_layers"} | others
    document = {"speculators_model_type": "eagle3", "transformer_layer_config": layer}
    write_json(folder / "config.json", {**document, "eagle_aux_hidden_state_layer_ids": [1, 2, 3]})
    return Base("the other draft", folder, 4, require_recipe(RECIPE).data["engine"], "b" * 64)


@pytest.mark.parametrize(("faster", "verdict"), [(1.0, "ok"), (1.2, "regression")])
def test_a_base_is_measured_in_the_same_rounds_and_gated_against(
    tmp_path: Path, faster: float, verdict: str
) -> None:
    base = a_base(tmp_path / "other")
    # Rounds differ by far more than the loss: only the comparison within them can see it.
    run = a_run(tmp_path, lambda n: (1.0, 1.25, 0.8, 1.1, 0.9)[n % 5], against=Opponent(base=base))
    assert isinstance(run.executor, Executor)
    run.executor.base = faster
    measure(run)
    assert run.executor.launched[:3] == ["plain round 1", "draft round 1", "base round 1"]
    comparison = read_json(run.record.folder / "comparison.json")
    assert (comparison["verdict"], comparison["old"]) == (verdict, "the other draft")
    settings = {one["name"]: (one["old"], one["new"]) for one in comparison["settings"]}
    assert settings["draft"] == ("b" * 64, "d" * 64)
    assert settings["speculative tokens"] == (4, 2)
    assert not [name for name in settings if name.startswith("engine.")]
    assert not [name for name in settings if name.startswith(("machine.", "environment."))]
    assert any("--aa" in remark for remark in comparison["remarks"])


@pytest.mark.parametrize(("faster", "verdict"), [(1.0, "ok"), (1.2, "regression")])
def test_a_base_of_other_engine_settings_is_gated_by_speedups_each_over_plain_of_its_own(
    tmp_path: Path, faster: float, verdict: str
) -> None:
    base = a_base(tmp_path / "other")
    args = {**base.engine["args"], "max_model_len": 256}
    base = base._replace(engine={**base.engine, "args": args})
    run = a_run(tmp_path, lambda n: 1.3 * SPREAD[n % 5], against=Opponent(base=base))
    assert isinstance(run.executor, Executor)
    run.executor.base = faster
    run.executor.engine = 0.5  # both of our arms are slowed alike, which is no loss of a speedup
    measure(run)
    first = [name.removesuffix(" round 1") for name in run.executor.launched[:4]]
    assert first == ["plain", "draft", "base", "base-plain"]
    comparison = read_json(run.record.folder / "comparison.json")
    assert comparison["verdict"] == verdict
    settings = {one["name"]: (one["old"], one["new"]) for one in comparison["settings"]}
    assert settings["engine.args.max_model_len"] == (256, 512)


def test_a_base_that_is_faster_than_possible_is_nothing_to_be_gated_against(tmp_path: Path) -> None:
    run = a_run(tmp_path, lambda n: SPREAD[n % 5], against=Opponent(base=a_base(tmp_path / "other")))
    assert isinstance(run.executor, Executor)
    run.executor.base = 9.0
    measure(run)
    comparison = read_json(run.record.folder / "comparison.json")
    assert comparison["verdict"] == run.record.document["gate"]["verdict"] == "not comparable"
    assert comparison["reasons"][0].startswith("the other draft: possible: at 1: speedup at least")
    assert len(run.executor.launched) == 15  # more rounds would not mend it


def test_a_base_of_another_verifier_is_refused_before_a_server_starts(tmp_path: Path) -> None:
    base = a_base(tmp_path / "other", hidden_size=16)
    run = a_run(tmp_path, lambda _: 1.3, against=Opponent(base=base))
    with pytest.raises(RecipeError, match=r"a draft of another verifier: verifier width \(16 against 8\)"):
        measure(run)
    assert isinstance(run.executor, Executor)
    assert run.executor.launched == []


def test_arms_that_did_other_work_leave_no_noise_for_later_gates(tmp_path: Path) -> None:
    run = a_run(tmp_path, lambda n: 1.3 * SPREAD[n % 5], None, "benchmark.rounds=4", against=ITSELF)
    assert isinstance(run.executor, Executor)
    run.executor.base = 9.0  # only the draft's second arm is impossibly fast
    measure(run)
    assert not (run.record.folder / "noise.json").exists()
    assert not (tmp_path / "home" / "noise").exists()
    with pytest.raises(StageError, match="the comparison is broken: at 1: speedup at least") as caught:
        report(run)
    assert caught.value.rule == "comparison"


def test_an_arm_against_itself_leaves_the_noise_for_later_gates(tmp_path: Path) -> None:
    first = a_run(tmp_path, lambda n: 1.3 * SPREAD[n % 5], None, "benchmark.rounds=4", against=ITSELF)
    measure(first)
    noise = read_json(first.record.folder / "noise.json")
    assert noise["rounds"] == 4
    assert noise["ratio"]["mean"] == pytest.approx(1)
    assert "gate" not in first.record.document
    (kept,) = (tmp_path / "home" / "noise").iterdir()
    assert read_json(kept) == noise
    write_json(kept, {**noise, "spread": 0.5})
    second = a_run(tmp_path, lambda _: 1.3, against=Opponent(base=a_base(tmp_path / "other")))
    measure(second)
    # No round differs from another, but on this machine that says little.
    assert second.record.document["gate"]["verdict"] == "undecided"
