"""One load: GuideLLM asks one server, or several in turn, and is ended when they hang.

What it asks, whom, and what came back of each; what a launch must be and what is kept of it is the affair of
``stages/benchmark_round.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from speculators.benchmark import guidellm
from speculators.benchmark.guidellm_report import (
    LOST_REQUESTS,
    LoadReport,
    ProfileLoad,
    read_profile,
    read_report,
    require_prompts,
)
from speculators.benchmark.relay import relay
from speculators.benchmark.rounds import turns
from speculators.documents import write_json, write_jsonl
from speculators.errors import StageError
from speculators.serving.client import ServerClient, stalled
from speculators.serving.metrics import SpecCounters

Measured = TypeVar("Measured")
ATTEMPTS = 3
WATCH_SECONDS = 10.0  # between looks at a working server, so that looking costs nothing


class Asked(NamedTuple):
    """A server that is asked: the arm's name, and what a request carries beside messages and limits."""

    name: str
    client: ServerClient
    body: Mapping[str, Any]


class Work(NamedTuple):
    """What every server is asked; ``prompts``: the messages of each.

    ``stall_timeout``: seconds without a token after which servers that are asked count as hung.
    """

    prompts: Sequence[Sequence[dict[str, Any]]]
    max_tokens: int
    tokenizer: Path
    stall_timeout: float


def in_turn(servers: Sequence[Asked]) -> list[list[Asked]]:
    """The servers that one load generator can ask in turn: those whose requests carry the same."""
    bodies = {json.dumps(one.body, sort_keys=True): one.body for one in servers}
    return [[one for one in servers if one.body == body] for body in bodies.values()]


def closed_loop(
    work: Work, servers: Sequence[Asked], concurrency: int, folder: Path, name: str
) -> list[tuple[LoadReport, SpecCounters | None]]:
    """One complete load of each of the ``servers``, which take turns, and what its engine counted meanwhile.

    ``name``: of the load's files in ``folder``.

    Raises:
        StageError: GuideLLM failed, or did not ask exactly the prompts; no server made a token for too long.
    """
    order = turns(len(work.prompts), len(servers))
    asked = work._replace(prompts=[messages for messages in work.prompts for _ in servers])

    def measure() -> list[tuple[LoadReport, SpecCounters | None]]:
        before = [one.client.counters() for one in servers]
        path = _generate(asked, servers, order, guidellm.closed_loop(concurrency), folder, name)
        reports = read_report(path, asked.prompts, order)
        after = [one.client.counters() for one in servers]
        counted = [
            now.since(then) if now is not None and then is not None else None
            for now, then in zip(after, before, strict=True)
        ]
        return list(zip(reports, counted, strict=True))

    return _whole(f"concurrency {concurrency}", measure)


def profile(work: Work, server: Asked, kind: str, folder: Path) -> list[ProfileLoad]:
    """The loads of one of GuideLLM's own profiles.

    Raises:
        StageError: as ``closed_loop``.
    """

    def measure() -> list[ProfileLoad]:
        own = guidellm.own_profile(kind, len(work.prompts))
        return read_profile(_generate(work, [server], (), own, folder, kind), work.prompts)

    return _whole(kind, measure)


def _whole(name: str, measure: Callable[[], Measured], attempts: int = ATTEMPTS) -> Measured:
    """What ``measure`` finds; without an answer that GuideLLM lost it is measured anew, never patched."""
    try:
        return measure()
    except StageError as error:
        if error.rule != LOST_REQUESTS or attempts == 1:
            raise
        print(f"{name}: {error.message}; measuring it again")
        return _whole(name, measure, attempts - 1)


def _generate(
    work: Work,
    servers: Sequence[Asked],
    order: Sequence[int],
    profile: Mapping[str, Any],
    folder: Path,
    name: str,
) -> Path:
    """One GuideLLM process over the prompts of ``work``; its report, which stays in ``folder``.

    ``order``: which of several ``servers`` is asked each prompt.
    """
    report, scenario_file = folder / f"guidellm-{name}.json", folder / f"scenario-{name}.json"
    prompts = folder / f"prompts-{name}.jsonl"
    write_jsonl(prompts, guidellm.prompt_rows(work.prompts))
    with ExitStack() as stack:
        several = len(servers) > 1
        # What the relay was asked is read after it has ended.
        between = stack.enter_context(relay([one.client.url for one in servers], order)) if several else None
        scenario = guidellm.scenario(
            endpoint=between.url if between else servers[0].client.url,
            model=servers[0].client.model,
            tokenizer=work.tokenizer,
            prompts=prompts,
            requests=len(work.prompts),
            profile=profile,
            body=servers[0].body,
            max_tokens=work.max_tokens,
            report=report,
        )
        write_json(scenario_file, scenario)
        # A cache of its own: the data sets library would otherwise keep every prompts file in the home.
        cache = stack.enter_context(tempfile.TemporaryDirectory(prefix="speculators-datasets-"))
        environment = guidellm.environment({**os.environ, "HF_DATASETS_CACHE": cache})
        code = watched(guidellm.command(scenario_file), environment, folder, servers, work.stall_timeout)
    if code != 0 or not report.is_file():
        raise StageError(
            f"GuideLLM failed at load {name} (exit code {code}), see above",
            rule="guidellm-failed",
        )
    if between:  # an answer is booked by its place, so every question must have had its own
        require_prompts("the relay", between.asked, work.prompts)
    return report


def watched(
    argv: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    servers: Sequence[Asked],
    stall_timeout: float,
) -> int:
    """The exit code of a load generator, ended when its servers do nothing for too long.

    Raises:
        StageError: no token was made for ``stall_timeout`` seconds.
    """
    with subprocess.Popen(argv, cwd=folder, env=environment) as process:
        made, moved = [one.client.tokens() for one in servers], time.monotonic()
        while True:
            try:
                return process.wait(min(WATCH_SECONDS, stall_timeout / 2))
            except subprocess.TimeoutExpired:
                now = [one.client.tokens() for one in servers]
            if any(one is not None and one != then for one, then in zip(now, made, strict=True)):
                made, moved = now, time.monotonic()
            elif time.monotonic() - moved > stall_timeout:
                process.kill()
                names = " nor ".join(one.name for one in servers)
                raise stalled(f"no token of {names} within {stall_timeout:g} s")
