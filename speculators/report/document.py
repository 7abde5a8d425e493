"""The report of a run: gather what was left in the run folder, write ``report.json``, ``.html`` and ``.md``.

``report.json`` holds every figure, the pages are nothing but its renderings.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from speculators.benchmark.summary import summarise
from speculators.documents import known_json, read_json, read_jsonl, write_json, write_text
from speculators.recipe.engine_args import to_argv
from speculators.recipe.yaml_loader import load_yaml
from speculators.report import markdown, page
from speculators.report.curves import lesson, loss_curve, validation_curve
from speculators.report.expectations import expectations
from speculators.report.headline import headline
from speculators.report.prompts import per_prompt
from speculators.report.status import row, status
from speculators.report.verdict import verdict
from speculators.serving.command import FREE_METHODS, SAME_FOR_ALL

SCHEMA = "speculators/report/v1"
NOTHING: Mapping[str, Any] = MappingProxyType({})
BENCHMARK = Path("bench/output.json")
REPLAY = Path("stages/replay/output/replay.json")
COMPARISON = Path("comparison.json")
NOISE = Path("noise.json")
METRICS = Path("stages/training/metrics.jsonl")
#: The recipe as its author wrote it, and with every default filled in.
RECIPES = {"given": Path("recipe.yaml"), "resolved": Path("resolved.yaml")}
STAGE_FIELDS = ("name", "action", "seconds", "bytes")
IMAGE_FIELDS = ("reference", "digest", "tested")

#: What no report can say, or only one whose summary has the part that is named.
NOT_CHECKED = {
    "temperature above 0: all requests are greedy": "sampled",
    "prompts longer than the benchmark's, and other kinds of prompts": "",
    "prefix caching: off in both arms": "cached",
    "other settings of the engine than those in the recipe, and other versions of it": "",
    "latency of a server that others use at the same time": "",
}


def write_report(folder: Path, record: dict[str, Any], served: Path | None = None) -> dict[str, Any]:
    """Write the reports of the run in ``folder``, whose record is ``record``; returns the document.

    ``served``: the model to serve where the run has no checkpoint of its own.
    """
    recipe = recipe_of(folder)
    document = report_document(
        record,
        expect=recipe.get("expect", {}),
        gpus=gpu_count(recipe, record),
        benchmark=read_json(folder / BENCHMARK)["result"],
        replay=read_json(folder / REPLAY) if (folder / REPLAY).is_file() else None,
        metrics=list(read_jsonl(folder / METRICS)) if (folder / METRICS).is_file() else [],
        model=served or folder / "model",
    ) | {
        "gate": known_json(folder / COMPARISON) or None,
        "noise": known_json(folder / NOISE) or None,
        "texts": {
            name: (folder / file).read_text(encoding="utf-8")
            for name, file in RECIPES.items()
            if (folder / file).is_file()
        },
    }
    write_json(folder / "report.json", document)
    write_text(folder / "report.md", markdown.render(document))
    write_text(folder / "report.html", page.render(document))
    return document


def report_document(
    record: dict[str, Any],
    *,
    expect: Mapping[str, Mapping[str, Any]] = NOTHING,
    gpus: int = 0,
    benchmark: dict[str, Any],
    replay: dict[str, Any] | None,
    metrics: list[dict[str, Any]],
    model: Path,
) -> dict[str, Any]:
    """All figures of a run as one document.

    ``expect``: the recipe's block of that name; ``gpus``: how many each stage had.
    """
    summary = summarise(benchmark, replay)
    results = {stage["name"]: stage.get("result", {}) for stage in record["stages"]}
    return {
        "schema": SCHEMA,
        "run": record["id"],
        "recipe": record["recipe"],
        "headline": headline(summary),
        "verdict": verdict(summary),
        "verifier": results.get("verifier", {}).get("id"),
        "quantised": results.get("quantised", {}).get("id"),
        "summary": summary,
        "prompts": per_prompt(benchmark, replay),
        "examples": (replay or {}).get("examples"),
        "expectations": expectations(expect, summary, record["stages"], gpus),
        "data": _data(results),
        "probe": results.get("hidden_states", {}).get("probe"),
        "training": _training(results.get("training"), metrics),
        "checkpoint": _checkpoint(results.get("package", {})),
        "stages": [{name: stage.get(name) for name in STAGE_FIELDS} for stage in record["stages"]],
        "environment": {
            **record["machine"],
            "speculators": record["tool"]["version"],
            "server": benchmark["launcher"],
            "packages": next((one["packages"] for one in benchmark["rounds"] if "packages" in one), None),
            "images": {
                role: {name: image.get(name) for name in IMAGE_FIELDS}
                for role, image in record.get("images", {}).items()
            },
        },
        "servers": [
            {name: one.get(name) for name in ("round", "arm", "server_ready_seconds", "seconds", "kept")}
            for one in benchmark["rounds"]
        ],
        "serve": serving_command(benchmark, model),
        "not_checked": not_checked(summary),
        "status": [one._asdict() for one in status()],
        "certificate": _certificate(record),
    }


def not_checked(summary: Mapping[str, Any]) -> list[str]:
    """What a reader might take for checked in the run of ``summary``, and is not."""
    return [text for text, part in NOT_CHECKED.items() if not summary.get(part)]


def recipe_of(folder: Path) -> dict[str, Any]:
    """The resolved recipe of the run in ``folder``; empty where it is not kept."""
    path = folder / "resolved.yaml"
    data = load_yaml(path.read_text(encoding="utf-8"), str(path)).data if path.is_file() else None
    return data if isinstance(data, dict) else {}


def gpu_count(recipe: Mapping[str, Any], record: Mapping[str, Any]) -> int:
    """GPUs that a stage had: those a container was given, else all of the machine (``2 x NAME, ...``)."""
    named = str(record["machine"].get("gpus", ""))
    there = sum(int(part.partition(" x ")[0]) for part in named.split(", ") if part)
    asked = recipe.get("container", {}).get("gpus", 0)
    return min(asked, there) if recipe.get("executor") == "docker" and isinstance(asked, int) else there


def serving_command(benchmark: dict[str, Any], model: Path) -> str:
    """The command that serves ``model`` with the measured settings: the one line a user copies.

    Greedy is made the server's default, as it was measured: vLLM's CPU engine must not sample with a
    draft (see docs/status.md), and a client that names no temperature would sample.
    """
    start = benchmark["launcher"]["command"]
    method, tokens = benchmark["speculation"]["algorithm"], benchmark["speculation"]["tokens"]
    config = {**FREE_METHODS.get(method, {}), "num_speculative_tokens": tokens}
    words = [str(model), *SAME_FOR_ALL, *to_argv(benchmark["engine_args"])]
    words += ["--override-generation-config", '{"temperature": 0}']
    words += ["--speculative-config", json.dumps(config)]
    return f"{start} {shlex.join(words)}"


def _certificate(record: Mapping[str, Any]) -> dict[str, str] | None:
    """What was found of this machine's GPUs before they were trusted; None where nobody had to ask."""
    found = record.get("certificate")
    return row(found["row"])._asdict() if found else None


def _data(results: dict[str, Any]) -> dict[str, Any]:
    """The ledger from prompts to captured tokens; None for what this run had no stage for."""
    found = {name: results.get(name) for name in ("prompts", "responses")}
    prepared = results.get("hidden_states", {}).get("prepared")
    return {**found, "prepared": prepared} if prepared else found


def _checkpoint(result: dict[str, Any]) -> dict[str, Any] | None:
    """How many of the package stage's checks of the checkpoint passed."""
    if "validation" not in result:
        return None
    checks = result["validation"]
    failed = [check["name"] for check in checks if not check["ok"]]
    return {"digest": result.get("digest"), "checks": len(checks), "failed": failed}


def _training(result: dict[str, Any] | None, metrics: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The training stage's findings with the course of its loss and of its validations."""
    if not result:
        return None
    return {
        **result,
        "curve": validation_curve(metrics),
        "loss": loss_curve(metrics),
        "lesson": lesson(metrics),
    }
