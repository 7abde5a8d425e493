"""The report of a small run, whose benchmark was measured for real and trimmed; golden Markdown beside it.

To accept a changed page: ``SPECULATORS_ACCEPT_GOLDEN=1 pytest tests/report/test_document.py``.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from speculators.documents import read_json, write_json
from speculators.report import markdown
from speculators.report.document import REPLAY, not_checked, write_report
from tests.report import documents
from tests.report.documents import DATA, run_folder

GOLDEN = DATA / "report.md"


@pytest.fixture
def record() -> dict[str, Any]:
    return documents.record()


def test_the_page_is_the_golden_one(tmp_path: Path, record: dict[str, Any]) -> None:
    verdict = write_report(run_folder(tmp_path), record)["verdict"]
    page = (tmp_path / "report.md").read_text(encoding="utf-8").replace(str(tmp_path), "RUN")
    page = page.partition("## Status")[0]  # grows with the project, not with the run
    if os.environ.get("SPECULATORS_ACCEPT_GOLDEN"):
        GOLDEN.write_text(page, encoding="utf-8")
    assert page == GOLDEN.read_text(encoding="utf-8")
    assert verdict in page


def test_the_only_absolute_path_is_in_the_serving_command(tmp_path: Path, record: dict[str, Any]) -> None:
    write_report(run_folder(tmp_path), record)
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert [line.count(str(tmp_path)) for line in page.splitlines() if str(tmp_path) in line] == [1]


def test_rounds_of_an_earlier_attempt_are_marked(tmp_path: Path, record: dict[str, Any]) -> None:
    folder = run_folder(tmp_path)
    benchmark = read_json(folder / "bench" / "output.json")
    for one in benchmark["result"]["rounds"]:
        one["kept"] = one["round"] == 1
    (folder / "bench" / "output.json").write_text(json.dumps(benchmark))
    write_report(folder, record)
    page = (folder / "report.md").read_text(encoding="utf-8")
    assert "Measured before this run was interrupted, and kept: round 1.\n" in page
    assert "and kept: round" not in GOLDEN.read_text(encoding="utf-8")


def test_other_numbers_of_proposed_tokens_have_a_table(tmp_path: Path, record: dict[str, Any]) -> None:
    folder = run_folder(tmp_path)
    benchmark = read_json(folder / "bench" / "output.json")
    result = benchmark["result"]
    result["samples"] += [{**one, "arm": "draft-1"} for one in result["samples"] if one["arm"] == "draft"]
    (folder / "bench" / "output.json").write_text(json.dumps(benchmark))
    write_report(folder, record)
    tokens = result["speculation"]["tokens"]
    page = (folder / "report.md").read_text(encoding="utf-8")
    table = page.partition("## Other numbers of proposed tokens\n")[2].partition("\n## ")[0]
    assert f"equal texts | {tokens} proposed over it |" in table
    rows = [line for line in table.splitlines() if line.startswith("| 1 | ")]
    assert len(rows) == len(result["benchmark"]["concurrency"]) + 1
    assert "| 1.00× [1.00, 1.00] |" in rows[-1]
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert html.count('<th scope="row" data-label="proposed">1</th>') == len(rows)
    assert "## Other numbers" not in GOLDEN.read_text(encoding="utf-8")


def test_every_figure_of_the_page_is_in_the_document(tmp_path: Path, record: dict[str, Any]) -> None:
    write_report(run_folder(tmp_path), record)
    document = read_json(tmp_path / "report.json")
    assert document["schema"] == "speculators/report/v1"
    assert document["summary"]["acceptance"]["served"]["drafts"] > 0
    assert document["environment"]["packages"]["guidellm"] == "0.8.1"
    assert "benchmark.json" not in json.dumps(document)


def test_the_images_of_a_run_in_containers_are_named_with_what_nobody_tried(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    image = {"reference": "me/vllm:1", "digest": "sha256:ab", "platform": "linux/amd64", "packages": {}}
    record["images"] = {"engine": image | {"tested": False}, "trainer": image | {"tested": True}}
    write_report(run_folder(tmp_path), record)
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "- engine: image me/vllm:1 (sha256:ab, not tested with speculators)\n" in page
    assert "- trainer: image me/vllm:1 (sha256:ab)\n" in page


def test_what_was_found_of_the_gpus_before_they_were_trusted_is_told(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    record["certificate"] = {"row": "| Trainer on H100 | mismatch | `speculators certify`: ddp: a \\| b |"}
    write_report(run_folder(tmp_path), record)
    told = "asked before they were trusted: Trainer on H100: mismatch (speculators certify: ddp: a | b)"
    assert told in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert told in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_run_without_replay_or_training_reports_what_it_has(tmp_path: Path, record: dict[str, Any]) -> None:
    folder = run_folder(tmp_path)
    shutil.rmtree(folder / "stages")
    record["stages"] = [
        stage for stage in record["stages"] if stage["name"] in ("verifier", "prompts", "package")
    ]
    write_report(folder, record)
    page = (folder / "report.md").read_text(encoding="utf-8")
    assert "This recipe brings its draft: nothing was trained." in page
    assert "Not predicted: the replay did not run." in page
    assert "None" not in page


def test_an_end_that_could_not_be_foretold_is_said(tmp_path: Path, record: dict[str, Any]) -> None:
    """Only of a training that tried: those before it do not say."""
    sentence = "The end was not foretold: that takes two validations in the first half of the training"
    assert sentence not in GOLDEN.read_text(encoding="utf-8")
    (training,) = (stage for stage in record["stages"] if stage["name"] == "training")
    training["result"]["forecast"] = None
    write_report(run_folder(tmp_path), record)
    for name in ("report.md", "report.html"):
        assert sentence in (tmp_path / name).read_text(encoding="utf-8")


def test_what_the_run_found_of_a_missed_prediction_is_told(tmp_path: Path, record: dict[str, Any]) -> None:
    folder = run_folder(tmp_path)
    replay = read_json(folder / REPLAY)
    write_json(folder / REPLAY, replay | {"probe": {"said": "Export or engine: 1.9 guessed, 1.2 served."}})
    write_report(folder, record)
    for name in ("report.md", "report.html"):
        page = (folder / name).read_text(encoding="utf-8")
        assert "Which half is wrong?" in page
        assert "Export or engine: 1.9 guessed, 1.2 served." in page
    write_json(folder / REPLAY, replay | {"not_probed": "no room"})
    write_report(folder, record)
    page = (folder / "report.md").read_text(encoding="utf-8")
    assert "Not probed: no room." in page
    assert "Which half" not in page


def test_what_was_measured_is_not_called_unchecked() -> None:
    always = not_checked({"sampled": None, "cached": None})
    assert "prefix caching: off in both arms" in always
    assert "temperature above 0: all requests are greedy" in always
    measured = not_checked({"sampled": {}, "cached": {"speed": []}})
    assert set(always) - set(measured) == {"prefix caching: off in both arms"}


def test_rows_without_looping_answers_stand_where_answers_loop(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    document = write_report(run_folder(tmp_path), record)
    document["summary"]["speed"][0]["looping"] = ["bench-001"]
    page = markdown.render(document)
    assert "\n| 1 | not looping |" in page
    assert "\n| 4 | not looping |" not in page
    assert "\n| all (geometric mean) | not looping |" in page
    assert "| not looping |" not in GOLDEN.read_text(encoding="utf-8")


def test_a_recipe_without_a_draft_model_says_what_draft_stands_for(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    record["stages"] = [stage for stage in record["stages"] if stage["name"] in ("verifier", "prompts")]
    folder = run_folder(tmp_path)
    write_report(folder, record)
    for name in ("report.md", "report.html"):
        assert "This recipe has no draft model:" in (folder / name).read_text(encoding="utf-8")
