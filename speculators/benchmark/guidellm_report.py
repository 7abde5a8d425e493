"""A narrow reader of GuideLLM's JSON report.

It takes from each request only what was observed (times, counts, text) and leaves GuideLLM's own
aggregates alone: ours are computed once, from the rows, for every arm in the same way.  A report of
another schema version is refused, because a renamed field would turn into a silent "not measured".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speculators.documents import read_json
from speculators.errors import StageError

REPORT_VERSION = 2
#: How a request can end, as the report calls it.
ENDS = ("successful", "errored", "incomplete")
TESTED_GUIDELLM = "0.8.1"

#: Rule of the one failure that measuring again can cure.
LOST_REQUESTS = "lost-requests"


class RequestSpec(NamedTuple):
    """vLLM's speculation counts of one request (``--per-request-spec-decode-metrics summary``)."""

    drafts: int
    draft_tokens: int
    accepted: int
    per_position: tuple[int, ...]


class RequestRow(NamedTuple):
    """One completed request.  ``prompt`` is its index in the prompts file; times in seconds.

    ``itl_ms`` is the mean time between tokens after the first; ``tpot_ms`` is the time to the last
    token over all tokens, the first included (GuideLLM's definitions).
    """

    prompt: int
    text: str
    output_tokens: int
    started: float
    ended: float
    ttft_ms: float | None
    itl_ms: float | None
    tpot_ms: float | None
    spec: RequestSpec | None
    prompt_tokens: int | None = None


class LoadReport(NamedTuple):
    """All requests of one load: the completed ones in file order, and how many did not complete.

    ``in_turns``: whether other servers answered requests between them.
    """

    guidellm: str
    rows: tuple[RequestRow, ...]
    errored: int
    incomplete: int
    first_error: str
    in_turns: bool = False


class ProfileLoad(NamedTuple):
    """One load of a profile: GuideLLM's name of its strategy, requests a second where those are steady."""

    strategy: str
    rate: float | None
    report: LoadReport


def read_report(
    path: Path, prompts: Sequence[Sequence[dict[str, Any]]], order: Sequence[int]
) -> list[LoadReport]:
    """The load in ``path``, parted into one for each server that was asked in its turn.

    ``prompts``: what the prompts file held, as messages of each row, in file order; ``order``: which server
    was asked each row, counted from 0.  In a server's load the prompts are numbered as it was asked them.

    Raises:
        StageError: unknown report version, or the requests are not the prompts, each once, in order;
            with the rule ``LOST_REQUESTS`` when some are only missing.
    """
    version, benchmarks = _benchmarks(path)
    if len(benchmarks) != 1:
        raise StageError(
            f"{path.name}: {len(benchmarks)} benchmarks in the report, expected one load",
            rule="guidellm-report",
        )
    requests = benchmarks[0]["requests"]
    places = _prompt_indices(path, requests, prompts)
    asked: dict[int, dict[str, int]] = {server: {} for server in sorted(set(order))}
    for name, place in places.items():  # in the order in which they were asked
        own = asked[order[place]]
        own[name] = len(own)
    return [_load(version, requests, own)._replace(in_turns=len(asked) > 1) for own in asked.values()]


def read_profile(path: Path, prompts: Sequence[Sequence[dict[str, Any]]]) -> list[ProfileLoad]:
    """All loads in ``path``; each of them sends all ``prompts``.

    Raises:
        StageError: as ``read_report``.
    """
    version, benchmarks = _benchmarks(path)
    return [
        ProfileLoad(
            one["config"]["strategy"]["type_"],
            one["config"]["strategy"].get("rate"),
            _load(version, one["requests"], _prompt_indices(path, one["requests"], prompts)),
        )
        for one in benchmarks
    ]


def _benchmarks(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """GuideLLM's version and what it measured, of a report that this reader knows."""
    document = read_json(path)
    metadata = document.get("metadata", {})
    version = metadata.get("version")
    if version != REPORT_VERSION:
        raise StageError(
            f"{path.name}: GuideLLM report version {version!r}, this reader knows {REPORT_VERSION} "
            f"(GuideLLM {TESTED_GUIDELLM})",
            hint=f"install guidellm=={TESTED_GUIDELLM} where the benchmark runs",
            rule="guidellm-version",
        )
    return metadata["guidellm_version"], document["benchmarks"]


def _load(
    version: str, requests: Mapping[str, Sequence[dict[str, Any]]], prompts: Mapping[str, int]
) -> LoadReport:
    """The load of the requests whose prompt is in ``prompts``, by their ids."""
    own = {end: [row for row in requests[end] if row["request_id"] in prompts] for end in ENDS}
    errors = [row["info"]["error"] or "unknown error" for row in own["errored"]]
    return LoadReport(
        guidellm=version,
        rows=tuple(sorted(_row(prompts[row["request_id"]], row) for row in own["successful"])),
        errored=len(own["errored"]),
        incomplete=len(own["incomplete"]),
        first_error=errors[0] if errors else "",
    )


def _prompt_indices(
    path: Path, requests: Mapping[str, Sequence[dict[str, Any]]], prompts: Sequence[Sequence[dict[str, Any]]]
) -> dict[str, int]:
    """File index of each request by its id, after checking order and uniqueness.

    GuideLLM hands out requests in the order of ``queued``; with several streams the moments of
    sending differ from it by scheduling within one window of the concurrency.
    """
    ordered = sorted(
        (row for end in ENDS for row in requests[end]), key=lambda row: row["info"]["timings"]["queued"]
    )
    require_prompts(path.name, [_messages(row) for row in ordered], prompts)
    return {row["request_id"]: index for index, row in enumerate(ordered)}


def _messages(row: Mapping[str, Any]) -> Any:
    """What a request asked; None of one that failed, of which the report does not keep it."""
    asked = row["request_args"]
    return None if asked is None else json.loads(asked)["body"]["messages"]


def require_prompts(name: str, asked: Sequence[Any], prompts: Sequence[Sequence[dict[str, Any]]]) -> None:
    """Refuse a load that did not ask the ``prompts``, each once and in order.

    ``name``: what says so; ``asked``: the messages of each request, None where they are not known.

    Raises:
        StageError: it did not; with the rule ``LOST_REQUESTS`` when some are only missing.
    """
    wanted = [list(messages) for messages in prompts]
    if len(asked) == len(wanted) and all(one in (None, other) for one, other in zip(asked, wanted)):
        return
    if len(asked) < len(wanted) and _only_lacks(wanted, [one for one in asked if one is not None]):
        raise StageError(
            f"{name} lacks {len(wanted) - len(asked)} of {len(wanted)} requests",
            hint="GuideLLM can lose an answer at its end on a busy machine: run again on a quieter one",
            rule=LOST_REQUESTS,
        )
    raise StageError(
        f"{name}: GuideLLM sent {len(asked)} requests that are not the {len(wanted)} prompts of the "
        "file, each once and in order",
        hint=f"arms can only be compared on the same work: use guidellm=={TESTED_GUIDELLM}",
        rule="prompt-order",
    )


def _only_lacks(wanted: Sequence[Any], sent: Sequence[Any]) -> bool:
    """Whether ``sent`` is ``wanted`` with some of it left out."""
    left = iter(wanted)
    return all(one in left for one in sent)


def _row(prompt: int, row: dict[str, Any]) -> RequestRow:
    return RequestRow(
        prompt=prompt,
        text=(row["reasoning_output"] or "") + (row["output"] or ""),
        output_tokens=row["output_metrics"]["total_tokens"],
        started=row["info"]["timings"]["request_start"],
        ended=row["info"]["timings"]["request_end"],
        ttft_ms=row["time_to_first_token_ms"],
        itl_ms=row["inter_token_latency_ms"],
        tpot_ms=row["time_per_output_token_ms"],
        spec=_spec(row["response_metrics"]),
        prompt_tokens=row.get("prompt_tokens"),
    )


def _spec(metrics: dict[str, Any] | None) -> RequestSpec | None:
    counts = (metrics or {}).get("speculative_decoding")
    if counts is None:
        return None
    # histogram[n] steps accepted exactly n tokens, so position i was accepted in the steps with n > i
    histogram = counts["acceptance_histogram"]
    return RequestSpec(
        drafts=counts["num_spec_steps"],
        draft_tokens=counts["num_draft_tokens"],
        accepted=counts["num_accepted_draft_tokens"],
        per_position=tuple(sum(histogram[i + 1 :]) for i in range(len(histogram) - 1)),
    )
