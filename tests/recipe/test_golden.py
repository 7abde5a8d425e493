"""Each broken recipe in ``golden/`` and the exact text that a person gets for it.

A recipe names its ``--set`` arguments in leading comments.  After a wanted change of words, run
with ``UPDATE_GOLDEN=1`` and read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from speculators.recipe.diagnostics import has_errors, render_all
from speculators.recipe.recipe import load_recipe

GOLDEN = Path(__file__).parent / "golden"
OVERRIDE = "# --set "


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.yaml")))
def test_diagnostics_read_as_agreed(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(GOLDEN)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    recipe = Path(f"{name}.yaml")
    lines = recipe.read_text().splitlines()
    overrides = [line.removeprefix(OVERRIDE) for line in lines if line.startswith(OVERRIDE)]
    loaded = load_recipe(recipe, overrides)
    text = render_all(loaded.diagnostics) + "\n"
    expected = Path(f"{name}.txt")
    if os.environ.get("UPDATE_GOLDEN"):
        expected.write_text(text)
    assert text == expected.read_text()
    assert (loaded.recipe is None) == has_errors(loaded.diagnostics)


def test_every_expectation_has_its_recipe() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == {path.stem for path in GOLDEN.glob("*.yaml")}
