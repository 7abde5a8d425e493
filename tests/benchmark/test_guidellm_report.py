"""The reader against a report of GuideLLM 0.8.1: the draft arm at 4 requests at a time, trimmed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from speculators.benchmark.guidellm_report import LOST_REQUESTS, LoadReport, read_profile, read_report
from speculators.benchmark.load import load_document
from speculators.benchmark.statistics import percentile
from speculators.errors import StageError
from speculators.serving.metrics import SpecCounters

DATA = Path(__file__).parent / "data"
REPORT = json.loads((DATA / "guidellm-0.8.1-draft-c4.json").read_text(encoding="utf-8"))
PROMPTS = [
    json.loads(line)["messages"] for line in (DATA / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
]


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    document = copy.deepcopy(REPORT)
    change(document)
    path = folder / "report.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def successful(document: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = document["benchmarks"][0]["requests"]["successful"]
    return rows


def one_load(path: Path) -> LoadReport:
    """The report of one server that was asked all of ``PROMPTS``."""
    (found,) = read_report(path, PROMPTS, [0] * len(PROMPTS))
    return found


@pytest.fixture
def report(tmp_path: Path) -> LoadReport:
    return one_load(changed(tmp_path, lambda _: None))


def test_every_prompt_was_sent_once_in_file_order(report: LoadReport) -> None:
    assert [row.prompt for row in report.rows] == list(range(len(PROMPTS)))
    assert (report.guidellm, report.errored, report.incomplete, report.first_error) == ("0.8.1", 0, 0, "")


def test_the_requests_of_servers_that_took_turns_are_parted(tmp_path: Path) -> None:
    def fail_the_second(document: dict[str, Any]) -> None:
        requests = document["benchmarks"][0]["requests"]
        ordered = sorted(requests["successful"], key=lambda row: row["info"]["timings"]["queued"])
        ordered[1]["info"]["error"] = "gone"
        ordered[1]["request_args"] = None  # as GuideLLM 0.8.1 leaves it
        requests["successful"] = [row for row in ordered if row is not ordered[1]]
        requests["errored"] = [ordered[1]]

    order = [0, 1, 1, 0, *([0] * (len(PROMPTS) - 4))]
    whole = one_load(changed(tmp_path, lambda _: None))
    first, second = read_report(changed(tmp_path, fail_the_second), PROMPTS, order)
    assert (first.errored, second.errored, second.first_error) == (0, 1, "gone")
    assert [row.text for row in second.rows] == [whole.rows[2].text]
    assert [row.prompt for row in second.rows] == [1]  # the second question that this server was asked
    assert [row.text for row in first.rows] == [whole.rows[i].text for i in (0, *range(3, len(PROMPTS)))]
    assert (whole.in_turns, first.in_turns, second.in_turns) == (False, True, True)


def test_time_in_which_other_servers_answered_is_not_a_servers_own(tmp_path: Path) -> None:
    order = [0, 1] * (len(PROMPTS) // 2)
    ids = [f"prompt-{number}" for number in range(len(PROMPTS) // 2)]
    path = changed(tmp_path, lambda _: None)
    for one in read_report(path, PROMPTS, order):
        looping = dict.fromkeys(range(len(ids)), False)
        load = load_document(1, one, ids, looping, None)
        own = sum(row.ended - row.started for row in one.rows)
        assert load["wall_seconds"] == pytest.approx(own)
        assert load["output_tokens_per_second"] == pytest.approx(load["output_tokens"] / own)


def test_an_answer_that_is_lost_among_equal_questions_is_lost_and_not_out_of_order(tmp_path: Path) -> None:
    def ask_twice(document: dict[str, Any]) -> None:
        rows = successful(document)
        ordered = sorted(rows, key=lambda row: row["info"]["timings"]["queued"])
        ordered[0]["request_args"] = ordered[-1]["request_args"]
        rows.remove(ordered[1])

    prompts = [PROMPTS[-1], *PROMPTS[1:]]
    with pytest.raises(StageError) as caught:
        read_report(changed(tmp_path, ask_twice), prompts, [0] * len(prompts))
    assert caught.value.rule == LOST_REQUESTS


def test_a_profile_of_several_loads_holds_every_prompt_in_each(tmp_path: Path) -> None:
    def twice(document: dict[str, Any]) -> None:
        second = copy.deepcopy(document["benchmarks"][0])
        document["benchmarks"][0]["config"] = {"strategy": {"type_": "synchronous"}}
        second["config"] = {"strategy": {"type_": "constant", "rate": 0.5}}
        document["benchmarks"].append(second)

    path = changed(tmp_path, twice)
    found = read_profile(path, PROMPTS)
    assert [(one.strategy, one.rate) for one in found] == [("synchronous", None), ("constant", 0.5)]
    assert [len(one.report.rows) for one in found] == [len(PROMPTS)] * 2
    with pytest.raises(StageError, match="2 benchmarks in the report, expected one load"):
        one_load(path)


def test_times_and_counts_are_those_of_the_request(report: LoadReport) -> None:
    raw = {
        json.loads(row["request_args"])["body"]["messages"][0]["content"]: row for row in successful(REPORT)
    }
    for row in report.rows:
        source = raw[PROMPTS[row.prompt][0]["content"]]
        assert row.text == source["output"]
        assert row.ended - row.started == pytest.approx(source["request_latency"])
        assert row.output_tokens == source["output_metrics"]["total_tokens"]
        assert row.ttft_ms == source["time_to_first_token_ms"]


def test_positions_come_from_the_histogram_of_steps(report: LoadReport) -> None:
    assert any(row.spec and row.spec.accepted for row in report.rows)
    for row in report.rows:
        assert row.spec is not None
        assert sum(row.spec.per_position) == row.spec.accepted
        assert row.spec.draft_tokens == 3 * row.spec.drafts
        assert list(row.spec.per_position) == sorted(row.spec.per_position, reverse=True)


def test_a_plain_server_reports_no_speculation(tmp_path: Path) -> None:
    def plain(document: dict[str, Any]) -> None:
        for row in successful(document):
            row["response_metrics"] = None

    assert {row.spec for row in one_load(changed(tmp_path, plain)).rows} == {None}


@pytest.mark.parametrize("version", [1, 3, None])
def test_another_version_of_the_report_is_refused(tmp_path: Path, version: int | None) -> None:
    path = changed(tmp_path, lambda document: document["metadata"].update(version=version))
    with pytest.raises(StageError, match="version") as caught:
        one_load(path)
    assert "guidellm==0.8.1" in caught.value.hint


def repeat_one(document: dict[str, Any]) -> None:
    rows = successful(document)
    rows[0]["request_args"] = rows[1]["request_args"]


def swap_two(document: dict[str, Any]) -> None:
    rows = successful(document)
    rows[0]["request_args"], rows[5]["request_args"] = rows[5]["request_args"], rows[0]["request_args"]


def lose_one(document: dict[str, Any]) -> None:
    successful(document).pop()


def test_a_lost_request_is_told_apart_because_measuring_again_may_help(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="lacks 1 of 12 requests") as caught:
        one_load(changed(tmp_path, lose_one))
    assert caught.value.rule == LOST_REQUESTS


@pytest.mark.parametrize("change", [repeat_one, swap_two])
def test_other_work_than_the_prompts_in_order_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    with pytest.raises(StageError, match="each once and in order"):
        one_load(changed(tmp_path, change))


def test_a_failed_request_is_counted_and_keeps_its_error(tmp_path: Path) -> None:
    def fail_one(document: dict[str, Any]) -> None:
        row = successful(document).pop()
        row["info"]["error"] = "connection reset"
        row["request_args"] = None  # as GuideLLM 0.8.1 leaves it
        document["benchmarks"][0]["requests"]["errored"].append(row)

    report = one_load(changed(tmp_path, fail_one))
    assert (len(report.rows), report.errored, report.first_error) == (len(PROMPTS) - 1, 1, "connection reset")


def test_figures_of_a_load_are_over_its_own_window(report: LoadReport) -> None:
    ids = [f"p{i}" for i in range(len(PROMPTS))]
    looping = {row.prompt: row.prompt == 1 for row in report.rows}
    counters = SpecCounters(1, 3, 1, (1, 0, 0))
    load = load_document(4, report, ids, looping, counters)
    window = max(row.ended for row in report.rows) - min(row.started for row in report.rows)
    assert load["output_tokens"] == sum(row.output_tokens for row in report.rows)
    assert load["output_tokens_per_second"] == pytest.approx(load["output_tokens"] / window)
    assert load["ttft_ms"]["p95"] == pytest.approx(percentile([row.ttft_ms or 0 for row in report.rows], 95))
    assert load["counters"] == {"drafts": 1, "draft_tokens": 3, "accepted": 1, "per_position": (1, 0, 0)}
    assert [row["id"] for row in load["requests"] if row["looping"]] == ["p1"]


def test_a_load_in_which_nothing_completed_has_no_figures() -> None:
    load = load_document(1, LoadReport("0.8.1", (), 3, 0, "refused"), [], {}, None)
    assert load["output_tokens_per_second"] is None
    assert load["ttft_ms"] is None
    assert load["errored"] == 3
