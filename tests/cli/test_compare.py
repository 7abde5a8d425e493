"""``compare`` and ``report`` on runs that lie there: what they print, and how they exit."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from speculators.bundle.create import bundle
from speculators.cli import app
from speculators.documents import read_json, write_json
from tests.bundle.world import a_recipe, a_run

FAST = {1: [1.10, 1.11, 1.10, 1.11, 1.10], 4: [1.20, 1.21, 1.20, 1.21, 1.20]}
SLOW = {1: [0.90, 0.91, 0.90, 0.91, 0.90], 4: [1.00, 1.01, 1.00, 1.01, 1.00]}


@pytest.fixture
def runs(tmp_path: Path) -> tuple[str, str]:
    """A faster and a slower run of one recipe."""
    recipe = a_recipe(tmp_path / "recipes")
    old, new = (a_run(tmp_path / name, recipe, speeds=speeds) for name, speeds in (("a", FAST), ("b", SLOW)))
    return str(old), str(new)


def baseline(run: str, path: Path) -> str:
    assert app.main(["report", run, "--format", "baseline", "--out", str(path)]) == 0
    return str(path)


def test_a_slower_run_is_a_regression(runs: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["compare", *runs]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("regression: acceptance held and speed fell")
    assert "- speedup " in " ".join(shown.split())
    assert "speedup at 4" in shown


def test_a_run_against_itself_is_ok(runs: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["compare", runs[0], runs[0]]) == 0
    assert capsys.readouterr().out.startswith("ok: no loss beyond the tolerances")


def test_doubt_exits_5_only_where_it_is_asked_for(tmp_path: Path) -> None:
    recipe = a_recipe(tmp_path / "recipes")
    noisy = {1: [0.8, 1.2], 4: [0.8, 1.2]}
    one, other = (str(a_run(tmp_path / name, recipe, speeds=noisy)) for name in "ab")
    assert app.main(["compare", one, other]) == 0
    assert app.main(["compare", one, other, "--strict"]) == 5


def test_run_bundle_and_baseline_file_say_the_same(
    runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = str(bundle(Path(runs[0]), tmp_path / "one.speculators.tar").path)
    figures = []
    for old in (runs[0], archive, baseline(runs[0], tmp_path / "one.json")):
        capsys.readouterr()
        assert app.main(["compare", old, runs[1], "--json"]) == 1
        figures.append(json.loads(capsys.readouterr().out)["figures"])
    assert figures[0] == figures[1]
    assert [one["change"] for one in figures[2]] == pytest.approx(
        [one["change"] for one in figures[0]], abs=1e-5
    )


@pytest.mark.parametrize(
    ("rounds", "reason"),
    [(1, "has one round, so nothing is known of its spread"), (3, "has 3 rounds, and a baseline needs 5")],
)
def test_few_rounds_are_no_baseline_and_that_is_said_before_it_is_committed(
    runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], rounds: int, reason: str
) -> None:
    place, file = Path(runs[0]) / "bench" / "output.json", tmp_path / "once.json"
    benchmark = read_json(place)
    samples = benchmark["result"]["samples"]
    benchmark["result"]["samples"] = [one for one in samples if one["round"] <= rounds]
    write_json(place, benchmark)
    assert app.main(["report", runs[0], "--format", "baseline", "--out", str(file)]) == 2
    shown = capsys.readouterr().err
    assert reason in shown
    assert "speculators run RECIPE --only benchmark --set benchmark.rounds=12" in " ".join(shown.split())
    assert not file.exists()


def test_runs_of_two_rounds_are_compared_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = a_recipe(tmp_path / "recipes")
    one = str(a_run(tmp_path / "a", recipe, speeds={1: [1.10, 1.11], 4: [1.20, 1.21]}))
    assert app.main(["compare", one, one]) == 0
    assert "has 2 rounds: against 12 a loss is found sooner" in capsys.readouterr().out


def test_markdown_is_a_table(runs: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["compare", *runs, "--md"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("**regression: ")
    rows = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1


def test_another_machine_is_refused_unless_asked_for(
    runs: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    record = read_json(Path(runs[1]) / "run.json")
    record["machine"]["cores"] = 64
    write_json(Path(runs[1]) / "run.json", record)
    assert app.main(["compare", *runs]) == 2
    assert capsys.readouterr().out.startswith("not comparable: another machine: cores is ")
    assert app.main(["compare", *runs, "--anyway"]) == 1
    assert "note  another machine: cores is " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("none.json", None, "there is no such file or folder"),
        ("text.json", "no", "not JSON"),
        ("other.json", "{}", "no baseline: $: "),
    ],
)
def test_what_is_no_baseline_is_refused(
    runs: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str | None,
    complaint: str,
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    assert app.main(["compare", str(tmp_path / name), runs[1]]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ({"speedups": [math.nan, 1.2, 1.2]}, "not JSON: NaN is no number"),
        ({"speedups": [math.inf, 1.2, 1.2]}, "not JSON: Infinity is no number"),
        (
            {"drafting": [{"drafts": 9, "accepted": 3}]},
            "no baseline: loads.0.drafting: counts of 1 rounds, speedups of ",
        ),
    ],
)
def test_a_baseline_with_figures_that_are_none_is_refused(
    runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], damage, complaint: str
) -> None:
    """Nothing is certain of them, so a gate on them would never find anything."""
    file = Path(baseline(runs[0], tmp_path / "one.json"))
    document = read_json(file)
    document["loads"][0].update(damage)
    file.write_text(json.dumps(document))
    assert app.main(["compare", str(file), runs[1]]) == 2
    assert complaint in " ".join(capsys.readouterr().err.split())


def test_a_baseline_whose_draft_is_no_name_is_refused(
    runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(baseline(runs[0], tmp_path / "one.json"))
    document = read_json(file)
    document["settings"]["draft algorithm"] = ["eagle3"]
    write_json(file, document)
    assert app.main(["compare", str(file), runs[1]]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "no baseline: $.settings['draft algorithm']: ['eagle3'] is not of type 'string', 'null'" in shown


@pytest.mark.parametrize("place", ["file/page.md", "loop/page.md"])
def test_a_report_that_cannot_be_written_there_says_so(
    runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    assert app.main(["report", runs[0], "--out", str(tmp_path / place)]) == 4
    assert f"{tmp_path / place}: cannot be written: " in capsys.readouterr().err


def test_what_holds_no_run_is_told_from_what_is_not_there(
    runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(runs[0])
    file = baseline(runs[0], tmp_path / "one.json")
    (run.parent / "latest").symlink_to(run.name)
    for place, words in (
        (str(tmp_path / "none"), "there is no such file or folder"),
        (file, "this file is no bundle of a run [no-run]\n      = help: name a run's folder or a bundle"),
        (str(run / "stages"), "no run is in this folder"),
        (str(run.parent), f"the last one of this recipe is {run.parent / 'latest'}"),
    ):
        assert app.main(["report", place]) == 2
        shown = capsys.readouterr().err
        assert words in shown
        assert "baseline" not in shown


def test_an_unfinished_run_is_refused(runs: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    record = read_json(Path(runs[0]) / "run.json")
    write_json(Path(runs[0]) / "run.json", record | {"status": "failed"})
    assert app.main(["compare", *runs]) == 2
    assert "no finished benchmark" in capsys.readouterr().err


def test_report_shows_the_page_and_its_figures(
    runs: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["report", runs[0]]) == 0
    assert capsys.readouterr().out == (Path(runs[0]) / "report.md").read_text()
    assert app.main(["report", runs[0], "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == read_json(Path(runs[0]) / "report.json")
    assert app.main(["report", runs[0], "--format", "pdf"]) == 2


def test_a_gate_without_the_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(Path(__file__).parents[2] / "recipes" / "smollm2-135m-eagle3.yaml")
    assert app.main(["run", recipe, "--only", "package", "--against", "x.json"]) == 2
    assert "--only package leaves out" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["html", "md", "json"])
def test_a_run_and_its_bundle_give_the_same_report(
    form: str, runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = bundle(Path(runs[0]), tmp_path / "one.speculators.tar").path
    shown = []
    for source in (runs[0], str(archive)):
        assert app.main(["report", source, "--format", form]) == 0
        shown.append(capsys.readouterr().out)
    # A bundle names no folder of this machine.
    assert [line for line in shown[1].splitlines() if str(tmp_path) in line] == []
    assert len(shown[0].splitlines()) == len(shown[1].splitlines())


def test_a_report_in_no_known_form_is_refused(
    runs: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["report", runs[0], "--format", "pdf"]) == 2
    assert "one of md, html, json, card, baseline" in capsys.readouterr().err
