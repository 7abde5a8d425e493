"""The HTML page as text: what is in it, and that nothing a stranger wrote becomes markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from speculators.report import markdown
from speculators.report.document import write_report
from speculators.report.page import Piece, pieces, render, visible
from tests.report.documents import ATTACKS, hostile, record, run_folder, with_examples

#: Elements that a page of ours is made of; whatever else appears came from outside.
OURS = {
    *("html", "head", "meta", "title", "link", "style", "body", "header", "main", "footer", "nav"),
    *("h1", "h2", "h3", "h4", "p", "a", "ul", "li", "dl", "dt", "dd", "div", "span", "i", "small"),
    *("figure", "figcaption", "svg", "line", "text", "circle", "rect", "polyline"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td"),
    *("details", "summary", "pre", "code", "ins", "del"),
}
LARGEST = 1_000_000


class Seen(HTMLParser):
    """Elements, attributes and text of a page, as a parser finds them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture
def page(tmp_path: Path) -> str:
    write_report(with_examples(tmp_path), record())
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_needs_nothing_but_itself(page: str) -> None:
    seen = Seen(page)
    assert not {"script", "img", "iframe", "object", "form"} & set(seen.elements)
    links = [value for name, value in seen.attributes if name in ("src", "href", "action", "srcset")]
    assert [link for link in links if not (link or "").startswith(("#", "data:"))] == []
    assert "url(" not in page
    assert "@import" not in page
    assert len(page.encode()) < LARGEST


def test_links_lead_to_sections_that_are_there_and_ids_are_used_once(page: str) -> None:
    attributes = Seen(page).attributes
    ids = [value for name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {f"#{one}" for one in ids} >= {
        v for n, v in attributes if n == "href" and (v or "").startswith("#")
    }


def test_every_part_of_the_report_is_there(page: str) -> None:
    seen = Seen(page)
    text = " ".join("".join(seen.words).split())
    for words in (
        "the plain speed at one request at a time",
        "Acceptance by position",
        "Training loss",
        "Accuracy on validation",
        "Time by stage",
        "Disk by stage",
        "Least accepted",
        "Most accepted",
        "# as written",
        "A Processor, 2 cores",
        "Status of each path",
        "repeat themselves",
    ):
        assert words in text, words
    assert seen.elements.count("svg") == 6
    assert "None" not in text


def test_nothing_that_a_stranger_wrote_becomes_markup(tmp_path: Path) -> None:
    document = hostile(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    seen = Seen(page)
    assert set(seen.elements) <= OURS
    assert [name for name, _ in seen.attributes if name.startswith("on")] == []
    assert "203.0.113.1" in "".join(seen.words)
    assert "49" not in re.findall(r"\b49\b", render(document | {"headline": ATTACKS[3]}).split("</h1>")[0])
    assert not set("\x00\x1b\u202e\u200b") & set(page)


def test_a_report_of_an_earlier_version_is_still_a_page(tmp_path: Path) -> None:
    document = write_report(run_folder(tmp_path), record())
    newer = ("headline", "prompts", "examples", "status", "texts", "gate")
    old: dict[str, Any] = {name: value for name, value in document.items() if name not in newer}
    old["training"] = {name: value for name, value in document["training"].items() if name != "loss"}
    for row in old["training"]["curve"]:
        row.pop("accuracy")
    page = render(old)
    assert "Which tokens were accepted is not known for this run" in page
    assert page.count("<svg") == 4


def test_what_else_was_measured_is_shown_where_it_was(tmp_path: Path) -> None:
    document = write_report(run_folder(tmp_path), record())
    group = {"name": "co<de", "prompts": 3, "acceptance_length": 2.345, "per_position": [0.9, 0.445]}
    document["summary"]["acceptance"] |= {"by_group": [group], "by_prompt_length": [group | {"name": "0-63"}]}
    document["summary"]["acceptance"]["by_dataset"] = [group | {"name": "humaneval"}]
    service = {"machine_seconds_per_million_tokens": 1234.0, "goodput": None}
    document["summary"]["speed"][0]["service"] = {"plain": service}
    document["summary"]["speed"][1]["service"] = {
        "draft": service | {"goodput": {"requests_per_second": 1.5, "share": 0.25}}
    }
    document["summary"]["warnings"] = ["rounds: 2"]
    overall = document["summary"]["overall_speedup"]
    copy = {"quantising": overall, "both": None, "overall_speedup": overall, "acceptance": group}
    copy |= {"speed": document["summary"]["speed"], "exact_match": {"rate": 0.5}, "checks": []}
    document["summary"]["quantised"] = copy
    expected = {
        "title": "speedup at one request",
        "low": 1.5,
        "high": None,
        "source": "a paper",
        "met": False,
    }
    document["expectations"] = [expected | {"measured": 1.08}]
    text = " ".join("".join(Seen(render(document)).words).split())
    for words in (
        "co<de32.3450.900 / 0.445",
        "humaneval32.3450.900 / 0.445",
        "0-63",
        "1,234not measured",
        "1.5025.0%",
        "rounds: 2",
        "at least 1.51.08miss",
        "quantised with the draft over plainall (geometric mean)not measured",
    ):
        assert words in text, words
    beside = markdown.render(document)
    for words in (
        "| co<de | 3 | 2.345 | 0.900 / 0.445 |",
        "| humaneval | 3 | 2.345 |",
        "| 0-63 | 3 |",
        "| draft | 1,234 | 1.50 | 25.0% |",
        "\n- rounds: 2\n",
    ):
        assert words in beside, words


def test_other_conditions_a_base_and_own_loads_are_shown_on_both_pages(tmp_path: Path) -> None:
    document = write_report(run_folder(tmp_path), record())
    summary = document["summary"]
    ratio = {"mean": 0.95, "low": 0.9, "high": 1.0, "rounds": 3}
    arm = {
        "speed": summary["speed"],
        "overall_speedup": ratio,
        "acceptance": {"acceptance_length": 1.234},
        "exact_match": {"rate": 0.75},
        "checks": [{"name": "possible", "ok": False, "detail": "faster than its acceptance"}],
    }
    condition = {**arm, "alone": ratio | {"mean": 2.0}, "both": None, "acceptance_change": -0.375}
    percentiles = {"p50": 10.0, "p95": 20.0, "p99": 30.0}
    load = {
        "profile": "sweep", "arm": "draft", "strategy": "constant", "rate": 1.5, "failed": 7,
        "requests_per_second": 1.25, "output_tokens_per_second": 80.0, "service": {"goodput": None},
        "latencies": {"ttft_ms": percentiles, "itl_ms": percentiles, "latency_ms": None},
    }  # fmt: skip
    summary |= {
        "cached": condition,
        "sampled": {**condition, "exact_match": None, "acceptance": None},
        "sampling": {"temperature": 0.6},
        "base": {**arm, "name": "main", "draft_over_it": ratio},
        "profiles": [load],
    }
    summary["exact_match"]["relative"] = 0.5
    texts = " ".join("".join(Seen(render(document)).words).split()), markdown.render(document)
    for words in (
        "With the prefix cache on",
        "With answers drawn",
        "The draft that it is gated against",
        "GuideLLM's own loads",
        "-37.5%",
        "Not comparable: possible: faster than its acceptance.",
        "Not comparable: main: possible: faster than its acceptance.",
        "constant 1.50",
        "10 / 20 / 30",
    ):
        assert all(words in text for text in texts), words
    assert (
        "| draft over plain | all (geometric mean) | 0.95× [0.90, 1.00] | 1.234 | -37.5% | 75.0% |"
        in texts[1]
    )
    assert "| plain over plain without | all (geometric mean) | 2.00×" in texts[1]
    assert "| all (geometric mean) | 0.95× [0.90, 1.00] | 1.234 | 75.0% | 0.95× [0.90, 1.00] |" in texts[1]
    assert "| draft against plain, relative to plain against plain | 50.0% | |" in texts[1]


def test_a_draft_that_was_brought_has_no_training_to_show(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    (folder / "stages/training/metrics.jsonl").unlink()
    (folder / "stages/replay/output/replay.json").unlink()
    given = record()
    given["stages"] = [one for one in given["stages"] if one["name"] in ("verifier", "prompts", "package")]
    write_report(folder, given)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Nothing was trained" in page
    assert "Not predicted: the replay did not run" in page
    assert "None" not in "".join(Seen(page).words)


def test_an_answer_is_told_apart_token_by_token() -> None:
    example = {"tokens": ["A", " b", " c", " d"], "drafts": [[1, 1, " x"], [3, 0, "\n"]]}
    assert list(pieces(example)) == [
        Piece("own", "A"),
        Piece("accepted", " b"),
        Piece("missed", " x"),
        Piece("own", " c"),
        Piece("missed", "↵"),
        Piece("own", " d"),
    ]


@pytest.mark.parametrize(("token", "seen"), [("", "∅"), ("  ", "␣␣"), ("\n\n", "↵↵"), ("\u202e", "[U+202E]")])
def test_a_rejected_token_is_seen_whatever_it_is(token: str, seen: str) -> None:
    assert [one.text for one in pieces({"tokens": ["a"], "drafts": [[0, 0, token]]})] == [seen, "a"]


def test_lines_and_tabs_stay_and_controls_are_written_out() -> None:
    assert visible("a\n\tb\x07\ufeff") == "a\n\tb[U+0007][U+FEFF]"
