"""What is found out before the first stage starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from speculators.pipeline import preflight
from speculators.recipe.diagnostics import diagnostic
from speculators.recipe.positions import Mark
from speculators.recipe.recipe import InvalidRecipeError, require_recipe

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
