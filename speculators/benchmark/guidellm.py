"""One GuideLLM run: its scenario document and its command.

GuideLLM is a pinned program here, never an import: its options go in as one JSON document that stays
beside its report, so that a load can be repeated by hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speculators.serving.command import HOST

ARGV = (sys.executable, "-m", "guidellm")

#: GuideLLM 0.8.1 ends when it is told to and one wait for news times out; an answer that arrives between
#: the two is lost (scheduler/worker_group.py, request_updates).  At its default of 0.1 s that happens on a
#: busy machine; a longer wait delays nothing, because news ends it.
#: A proxy that the shell names is not asked for the loopback address.
SETTINGS = {"GUIDELLM__MP_POLL_INTERVAL": "1.0", "NO_PROXY": HOST, "no_proxy": HOST}

#: Of its log lines those that say how far a load is (benchmark/progress.py).
PROGRESS = re.compile(
    r"Benchmark \d+ \((?P<load>.+)\): .*successful=(?P<done>\d+) .*tokens/s=(?P<speed>[\d.]+)"
)

#: Loads of a sweep: one request at a time, all at once, and steady rates between them.
SWEEP_LOADS = 6


def progress(line: str) -> str:
    """What a line of GuideLLM's says of how far a load is, in short; empty for all its other lines."""
    found = PROGRESS.search(line)
    return f"{found['load']}: {found['done']} requests done, {found['speed']} tok/s" if found else ""


def closed_loop(concurrency: int) -> dict[str, Any]:
    """So many requests in flight, always."""
    return {"kind": "synchronous"} if concurrency == 1 else {"kind": "concurrent", "streams": [concurrency]}


def own_profile(name: str, requests: int) -> dict[str, Any]:
    """A profile that GuideLLM brings: ``throughput`` sends all requests at once, ``sweep`` is many loads."""
    own = {"sweep": {"sweep_size": SWEEP_LOADS}}.get(name, {})
    return {"kind": name, "max_concurrency": requests, **own}


def scenario(
    *,
    endpoint: str,
    model: str,
    tokenizer: Path,
    prompts: Path,
    requests: int,
    profile: Mapping[str, Any],
    body: Mapping[str, Any],
    max_tokens: int,
    report: Path,
) -> dict[str, Any]:
    """The scenario of loads over the rows of ``prompts``, in file order, each once a load.

    ``profile``: as of ``closed_loop`` or ``own_profile``; ``body`` goes into every request beside model,
    messages and token limit.  The order holds because the loader does not shuffle and reads with one worker,
    and the rows end with the requests.
    """
    return {
        "spec": {
            "backend": {
                "kind": "openai_http",
                "target": endpoint,
                "model": model,
                "request_format": "/v1/chat/completions",
                "max_tokens": max_tokens,
                "extras": {"body": dict(body)},
            },
            "tokenizer": {"kind": "huggingface_auto", "model": str(tokenizer)},
            "data": [{"kind": "json_file", "path": str(prompts)}],
            "data_loader": {"kind": "pytorch", "shuffle": False, "num_workers": 1},
            "profile": dict(profile),
            "constraints": [{"kind": "max_requests", "count": requests}],
            "outputs": [{"kind": "json", "path": str(report)}],
        }
    }


def command(scenario_file: Path) -> list[str]:
    """The command of one load, without interactive progress."""
    return [*ARGV, "run", "--config", str(scenario_file), "--disable-console-interactive"]


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """``base`` without the variables that GuideLLM would take as options of the load, and with ours."""
    return {name: value for name, value in base.items() if not name.startswith("GUIDELLM__")} | SETTINGS


def prompt_rows(prompts: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What GuideLLM gets of each prompt: the chat messages, sent as they are."""
    return [{"messages": messages} for messages in prompts]
