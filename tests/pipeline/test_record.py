"""The run record: valid at every moment, and without names of people or machines."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import jsonschema
import pytest

from speculators.documents import read_json
from speculators.errors import StageError
from speculators.pipeline.machine.kind import machine
from speculators.pipeline.record import RunRecord, benchmark_seconds
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
    assert (record.folder / "recipe.yaml").read_text(encoding="utf-8") == recipe.sources[0].text
    resolved = (record.folder / "resolved.yaml").read_text(encoding="utf-8")
    assert load_yaml(resolved, "resolved.yaml").data == recipe.data


def test_folders_of_the_command_line_are_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "sys.argv",
        ["/home/ann/bin/speculators", "run", "/home/ann/x.yaml", "--set", "a.b=1", "--runs-dir=/home/ann"],
    )
    record = RunRecord(tmp_path, require_recipe(RECIPE))
    assert record.document["arguments"] == [
        "speculators",
        "run",
        "x.yaml",
        "--set",
        "a.b=1",
        "--runs-dir=ann",
    ]


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


def test_gpus_and_driver_are_part_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert "gpus" not in machine() or shutil.which("nvidia-smi")
    rows = "A, 1, 580.65.06\\nB, 2, 580.65.06\\nA, 1, 580.65.06\\n"
    script = tmp_path / "nvidia-smi"
    script.write_text(f"#!/bin/sh\nprintf '{rows}'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = machine()
    assert (found["gpus"], found["driver"]) == ("2 x A, 1 x B", "580.65.06")


def test_a_run_that_ended_early_is_continued_in_its_folder(tmp_path: Path):
    recipe = require_recipe(RECIPE)
    first = RunRecord(tmp_path, recipe)
    first.add_stage({"name": "verifier", "action": "run", "seconds": 1.0, "bytes": 3, "result": {}})
    first.finish("interrupted")
    first.lock.close()
    second = RunRecord(tmp_path, recipe)
    assert second.continued
    assert second.folder == first.folder
    document = read_json(second.folder / "run.json")
    jsonschema.validate(document, schema())
    assert (document["status"], document["stages"]) == ("running", [])
    assert [one["status"] for one in document["attempts"]] == ["interrupted"]


def test_where_an_attempt_took_place_stays_with_it(tmp_path: Path):
    recipe = require_recipe(RECIPE)
    image = {"reference": "a/b:1", "digest": "sha256:ab", "platform": "linux/amd64", "packages": {}}
    first = RunRecord(tmp_path, recipe)
    first.rest_on(
        {
            "executor": "docker",
            "engine": "Docker 26",
            "images": {"engine": {**image, "tested": False}},
            "lock": {"sha256": "0" * 64},
        },
        "",
    )
    first.finish("failed")
    first.lock.close()
    second = RunRecord(tmp_path, recipe)
    assert "images" not in second.document  # not known yet
    second.rest_on({"executor": "docker", "engine": "Docker 27", "lock": {"sha256": "1" * 64}}, "")
    document = read_json(second.folder / "run.json")
    jsonschema.validate(document, schema())
    (attempt,) = document["attempts"]
    assert attempt["images"]["engine"]["tested"] is False
    assert (attempt["engine"], attempt["lock"]["sha256"]) == ("Docker 26", "0" * 64)
    assert attempt["tool"] == document["tool"]
    assert (document["engine"], document["lock"]["sha256"]) == ("Docker 27", "1" * 64)


def test_a_run_that_was_killed_is_continued_too(tmp_path: Path):
    code = f"""
        import os, signal
        from pathlib import Path
        from speculators.pipeline.record import RunRecord
        from speculators.recipe.recipe import require_recipe
        record = RunRecord(Path({str(tmp_path)!r}), require_recipe(Path({str(RECIPE)!r})))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    record = RunRecord(tmp_path, require_recipe(RECIPE))
    assert record.continued
    assert [one["status"] for one in record.document["attempts"]] == ["running"]


def test_a_run_of_one_stage_neither_continues_a_whole_one_nor_hides_its_report(tmp_path: Path):
    recipe = require_recipe(RECIPE)
    whole = RunRecord(tmp_path, recipe)
    whole.fail(KeyboardInterrupt())
    whole.lock.close()
    one = RunRecord(tmp_path, recipe, only="package")
    one.finish("ok")
    one.lock.close()
    assert not one.continued
    assert (one.folder.parent / "latest").resolve() == whole.folder.resolve()
    assert RunRecord(tmp_path, recipe).folder == whole.folder


def test_an_unreadable_record_stops_nobody(tmp_path: Path):
    recipe = require_recipe(RECIPE)
    broken = RunRecord(tmp_path, recipe)
    (broken.folder / "run.json").write_text('{"schema": ')
    broken.lock.close()
    assert benchmark_seconds(tmp_path, recipe.name) is None
    assert not RunRecord(tmp_path, recipe).continued


def test_how_a_run_failed_is_recorded_without_folders(tmp_path: Path):
    record = RunRecord(tmp_path, require_recipe(RECIPE))
    record.fail(StageError("/home/ann/store/training/ab: made.txt is missing\n  | a log line"))
    assert record.document["error"] == "ab: made.txt is missing"
    assert record.document["status"] == "failed"


@pytest.mark.parametrize("ending", ["ok", "other values", "asked anew", "still at work"])
def test_otherwise_a_run_gets_a_folder_of_its_own(tmp_path: Path, ending: str):
    first = RunRecord(tmp_path, require_recipe(RECIPE))
    first.finish("ok" if ending == "ok" else "failed")
    if ending != "still at work":
        first.lock.close()
    overrides = ["training.epochs=9"] if ending == "other values" else []
    second = RunRecord(tmp_path, require_recipe(RECIPE, overrides), anew=ending == "asked anew")
    assert not second.continued
    assert second.folder != first.folder


def test_the_last_benchmark_gives_the_estimate(tmp_path: Path):
    recipe = require_recipe(RECIPE)
    assert benchmark_seconds(tmp_path, recipe.name) is None
    record = RunRecord(tmp_path, recipe)
    record.add_stage({"name": "benchmark", "action": "run", "seconds": 612.5})
    assert benchmark_seconds(tmp_path, recipe.name) == 612.5
