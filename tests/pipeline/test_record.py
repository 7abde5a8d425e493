"""The run record: valid at every moment, and without names of people or machines."""

from __future__ import annotations

import getpass
import json
import socket
from pathlib import Path

import jsonschema
import pytest

from speculators.documents import read_json
from speculators.pipeline.record import RunRecord
from speculators.recipe.recipe import require_recipe
from speculators.recipe.yaml_loader import load_yaml

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "smollm2-135m-eagle3.yaml"


def schema():
    return json.loads((ROOT / "schemas" / "run.v1.json").read_text(encoding="utf-8"))


def test_the_record_obeys_its_schema_from_start_to_end(tmp_path: Path):
    record = RunRecord(tmp_path, require_recipe(RECIPE, ["training.epochs=1"]))
    jsonschema.validate(read_json(record.folder / "run.json"), schema())
    record.add_stage({"name": "verifier", "action": "run", "seconds": 1.0, "bytes": 3, "result": {}})
    record.finish("ok", verdict="faster")
    document = read_json(record.folder / "run.json")
    jsonschema.validate(document, schema())
    assert document["recipe"]["overrides"] == ["training.epochs=1"]
    assert document["status"] == "ok"


def test_the_recipe_is_kept_as_given_and_as_resolved(tmp_path: Path):
    recipe = require_recipe(RECIPE, ["training.epochs=1"])
    record = RunRecord(tmp_path, recipe)
    assert (record.folder / "recipe.yaml").read_text(encoding="utf-8") == recipe.source_text
    resolved = (record.folder / "resolved.yaml").read_text(encoding="utf-8")
    assert load_yaml(resolved, "resolved.yaml").data == recipe.data


def test_folders_of_the_command_line_are_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "sys.argv", ["/home/ann/bin/speculators", "run", "/home/ann/x.yaml", "--set", "a.b=1"]
    )
    record = RunRecord(tmp_path, require_recipe(RECIPE))
    assert record.document["arguments"] == ["speculators", "run", "x.yaml", "--set", "a.b=1"]


def test_latest_points_at_the_newest_run(tmp_path: Path):
    recipe = require_recipe(RECIPE)
    RunRecord(tmp_path, recipe)
    newest = RunRecord(tmp_path, recipe)
    assert (newest.folder.parent / "latest").resolve() == newest.folder.resolve()


def test_no_host_or_user_name_is_recorded(tmp_path: Path):
    record = RunRecord(tmp_path, require_recipe(RECIPE))
    machine = json.dumps(record.document["machine"])
    assert socket.gethostname() not in machine
    assert f'"{getpass.getuser()}"' not in machine
