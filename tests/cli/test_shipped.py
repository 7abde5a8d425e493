"""What a stranger can do with a shipped recipe before anything is fetched or installed beside the package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from speculators.recipe.recipe import require_recipe
from speculators.recipe.shipped import shipped_paths

#: Checks and plans every recipe in one process to which the heavy packages do not exist.
PROGRAM = """
import io, json, sys
from contextlib import redirect_stdout
sys.modules.update(dict.fromkeys(("torch", "transformers", "vllm", "guidellm", "huggingface_hub")))
from speculators.cli import app
found = {}
for path in sys.argv[1:]:
    checked = app.main(["check", path])
    with redirect_stdout(io.StringIO()) as out:
        planned = app.main(["plan", path, "--json"])
    with redirect_stdout(io.StringIO()) as text:
        app.main(["plan", path])
    found[path] = [checked, planned, json.loads(out.getvalue()), text.getvalue()]
print(json.dumps(found))
"""
PATHS = shipped_paths()
LARGE = [name for name in PATHS if not name.startswith("smollm2")]


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = str(tmp_path_factory.mktemp("home"))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment |= {"HOME": home, "SPECULATORS_HOME": home, "HF_HUB_CACHE": str(Path(home) / "hub")}
    command = [sys.executable, "-c", PROGRAM, *map(str, PATHS.values())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: found[str(path)] for name, path in PATHS.items()}


@pytest.mark.parametrize("name", PATHS)
def test_every_recipe_is_checked_and_planned_offline(plans: dict[str, Any], name: str) -> None:
    checked, planned, document, _ = plans[name]
    assert (checked, planned) == (0, 0)
    assert document["needs"]["source"].startswith("facts committed as ")


@pytest.mark.parametrize("name", LARGE)
def test_the_disk_that_is_expected_is_what_the_plan_says(plans: dict[str, Any], name: str) -> None:
    recipe = require_recipe(PATHS[name]).data
    if "disk_gb" not in recipe.get("expect", {}):
        return
    needs = plans[name][2]["needs"]
    # What all stages keep: weights too, which are linked where no container works, and counted all the same.
    kept = (needs["weights"] + needs["states"] + needs["training"] + needs["model"]) / 1e9
    assert kept <= recipe["expect"]["disk_gb"]["high"] < 1.3 * kept


@pytest.mark.parametrize("name", LARGE)
def test_a_plan_for_a_large_model_says_what_it_takes(plans: dict[str, Any], name: str) -> None:
    _, _, document, text = plans[name]
    needs = document["needs"]
    assert needs["weights"] > 13e9
    assert "GB in the engine" in text
    if any(stage["name"] == "training" for stage in document["stages"]):
        assert needs["tokens"] > 10**7
        assert needs["states"] > 10**11
        assert "of disk for 13.3 million tokens" in text
        assert all(one["memory"] > 10**9 for one in document["training_step"])
        assert len(document["training_step"]) == 4
