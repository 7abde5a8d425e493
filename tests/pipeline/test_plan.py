"""The plan says what would run and why, down to the line of the recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from speculators.benchmark.arms import Base, Opponent
from speculators.errors import RecipeError, StageError
from speculators.pipeline import keys, plan_text, surroundings
from speculators.pipeline.choice import ALL, Choice
from speculators.pipeline.plan import ACCEPT, MEASURE, REUSE, RUN, SKIP, StagePlan, plan, plan_benchmark
from speculators.pipeline.store import Store
from speculators.recipe.recipe import Recipe, require_recipe
from speculators.stages.documents import WORK_NAME
from tests.pipeline.stages import furnish

NO_CHOICE = Choice()
RECIPE = Path(__file__).parents[2] / "recipes" / "smollm2-135m-eagle3.yaml"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def planned(store: Store, *overrides: str, choice: Choice = NO_CHOICE) -> dict[str, StagePlan]:
    return {one.name: one for one in plan(require_recipe(RECIPE, overrides), store, choice)}


def actions(found: dict[str, StagePlan]) -> list[str]:
    return [one.action for one in found.values()]


def reasons(one: StagePlan) -> list[str]:
    return [reason.text for reason in one.reasons]


def test_on_an_empty_store_everything_runs(store: Store):
    found = planned(store)
    assert actions(found) == [RUN] * 6 + [MEASURE]
    assert reasons(found["verifier"]) == ["no earlier output"]
    assert reasons(found["training"])[0] == "made anew before it: verifier, hidden_states"


def test_with_everything_there_only_the_benchmark_is_measured(store: Store):
    furnish(store, require_recipe(RECIPE))
    found = planned(store)
    assert actions(found) == [REUSE] * 6 + [MEASURE]
    assert not plan_text.has_work(list(found.values()))


def test_a_base_of_other_engine_settings_is_planned_with_a_plain_arm_of_its_own() -> None:
    recipe = require_recipe(RECIPE, ["benchmark.depths=[]"])
    args = {**recipe.data["engine"]["args"], "max_model_len": 256}
    for engine, arms in ((recipe.data["engine"], 3), ({**recipe.data["engine"], "args": args}, 4)):
        base = Base("other", Path("other"), 3, engine, "b" * 64)
        (reason,) = reasons(plan_benchmark(recipe, NO_CHOICE, Opponent(base=base)))
        assert f"× {arms} arms ×" in reason


def test_an_arm_that_cannot_be_served_here_is_not_counted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = keys.environment
    monkeypatch.setattr(surroundings, "environment", lambda packages: here(()))
    (without,) = reasons(planned(store)["benchmark"])
    assert without.endswith("3 rounds × 4 arms × 2 loads (without suffix: no arctic-inference here)")
    everything = {"arctic-inference": "1"}
    monkeypatch.setattr(surroundings, "environment", lambda packages: here(()) | everything)
    assert reasons(planned(store)["benchmark"])[0].endswith("3 rounds × 5 arms × 2 loads")


def test_a_changed_value_is_named_with_its_place(store: Store):
    furnish(store, require_recipe(RECIPE))
    found = planned(store, "training.learning_rate=5e-5")
    assert actions(found) == [REUSE] * 4 + [RUN, RUN, MEASURE]
    (reason,) = found["training"].reasons
    assert reason.text == "training.learning_rate 0.002 -> 5e-05"
    assert reason.place == "--set[1]"
    assert reasons(found["package"]) == ["made anew before it: training"]


def test_a_value_changed_in_the_file_is_named_with_its_line(store: Store, tmp_path: Path):
    furnish(store, require_recipe(RECIPE))
    text = RECIPE.read_text(encoding="utf-8").replace("epochs: 5", "epochs: 6")
    (tmp_path / "prompts").symlink_to(RECIPE.parent / "prompts")
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    line = 1 + next(n for n, row in enumerate(text.splitlines()) if "epochs: 6" in row)
    found = {one.name: one for one in plan(require_recipe(tmp_path / "mine.yaml"), store, Choice())}
    (reason,) = found["training"].reasons
    assert (reason.text, reason.place) == ("training.epochs 5 -> 6", f"{tmp_path / 'mine.yaml'}:{line}")


def test_changed_prompts_are_named_and_stop_where_nothing_comes_out_different(store: Store, tmp_path: Path):
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    for file in (RECIPE.parent / "prompts").iterdir():
        (prompts / file.name).write_bytes(file.read_bytes())
    (tmp_path / "mine.yaml").write_bytes(RECIPE.read_bytes())
    recipe = require_recipe(tmp_path / "mine.yaml")
    furnish(store, recipe)
    with (prompts / "train.jsonl").open("a", encoding="utf-8") as file:
        row = {"id": "new", "topic": "t", "messages": [{"role": "user", "content": "Why?"}]}
        file.write(json.dumps(row) + "\n")
    found = {one.name: one for one in plan(recipe, store, Choice())}
    assert reasons(found["prompts"]) == ["datagen.prompts.files: other contents"]
    furnish(store, recipe)  # the prompts stage makes the same files as before
    assert {one.action for one in plan(recipe, store, Choice())} == {REUSE, MEASURE}


def test_another_benchmark_asks_for_no_new_training_data(store: Store, tmp_path: Path):
    recipe = require_recipe(RECIPE)
    furnish(store, recipe)
    other = tmp_path / "other.jsonl"
    other.write_text("".join(f'{{"prompt": "What is {number}?"}}\n' for number in range(96)))
    changed = (f"benchmark.prompts={other}", "benchmark.requests=96")
    found = planned(store, *changed)
    assert reasons(found["prompts"]) == ["benchmark.prompts: other contents"]
    furnish(store, require_recipe(RECIPE, changed), {"prompts/benchmark.jsonl": "others"})
    assert actions(planned(store, *changed)) == [REUSE] * 6 + [MEASURE]
    assert len(store.history("prompts")) == 2
    assert len(store.history("responses")) == 1


def test_a_changed_package_is_named(store: Store, monkeypatch: pytest.MonkeyPatch):
    furnish(store, require_recipe(RECIPE))
    keys.forget_code()
    with monkeypatch.context() as patched:
        patched.setattr(keys.importlib.metadata, "version", lambda name: "99.0")
        found = planned(store)
    keys.forget_code()
    assert any(text.startswith("torch ") and text.endswith("-> 99.0") for text in reasons(found["training"]))


def test_a_changed_module_is_named(store: Store, monkeypatch: pytest.MonkeyPatch):
    furnish(store, require_recipe(RECIPE))
    digest = keys.module_digest
    edited = "speculators.training.losses"
    monkeypatch.setattr(keys, "module_digest", lambda name: "edited" if name == edited else digest(name))
    found = planned(store)
    assert reasons(found["training"]) == [f"module {edited} changed"]
    assert found["responses"].action == REUSE


def test_the_reasons_are_those_against_the_nearest_output(store: Store):
    furnish(store, require_recipe(RECIPE))
    furnish(store, require_recipe(RECIPE, ["training.epochs=9", "training.seed=7"]))
    found = planned(store, "training.epochs=9", "training.seed=8")
    assert reasons(found["training"]) == ["training.seed 7 -> 8"]


def test_from_makes_a_stage_and_all_after_it(store: Store):
    furnish(store, require_recipe(RECIPE))
    found = planned(store, choice=Choice(start="training"))
    assert actions(found) == [REUSE] * 4 + [RUN, RUN, MEASURE]
    assert reasons(found["training"]) == ["--from training"]


def test_fresh_makes_one_stage_or_all(store: Store):
    furnish(store, require_recipe(RECIPE))
    one = planned(store, choice=Choice(fresh=frozenset({"prompts"})))
    assert next(name for name, stage in one.items() if stage.action == RUN) == "prompts"
    assert one["verifier"].action == REUSE
    assert actions(planned(store, choice=Choice(fresh=frozenset({ALL}))))[:6] == [RUN] * 6


def test_only_leaves_out_what_comes_after_and_refuses_what_is_missing_before(store: Store):
    with pytest.raises(RecipeError, match=r"--only training: stage 'verifier' would have to run first"):
        planned(store, choice=Choice(only="training"))
    furnish(store, require_recipe(RECIPE))
    found = planned(store, "training.epochs=9", choice=Choice(only="training"))
    assert actions(found) == [REUSE] * 4 + [RUN, SKIP, SKIP]
    assert actions(planned(store, choice=Choice(only="benchmark"))) == [REUSE] * 6 + [MEASURE]


@pytest.mark.parametrize(
    ("choice", "flag"),
    [
        (Choice(only="trainning"), "--only"),
        (Choice(start="trainning"), "--from"),
        (Choice(fresh=frozenset({"trainning"})), "--fresh"),
        (Choice(accept=frozenset({"trainning"})), "--accept"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_stage_that_does_not_exist_is_refused_with_the_likely_one(store: Store, choice: Choice, flag: str):
    with pytest.raises(RecipeError, match=rf"{flag}: this recipe has no stage 'trainning'") as caught:
        planned(store, choice=choice)
    assert caught.value.hint.startswith("did you mean 'training'?")


def test_only_and_another_stage_contradict_each_other(store: Store):
    with pytest.raises(
        RecipeError, match=r"--only training leaves out prompts, which --from or --fresh names"
    ):
        planned(store, choice=Choice(only="training", fresh=frozenset({"prompts"})))


def test_a_file_that_vanished_after_the_check_is_named(store: Store, tmp_path: Path):
    (tmp_path / "prompts").mkdir()
    for file in (RECIPE.parent / "prompts").iterdir():
        (tmp_path / "prompts" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "mine.yaml").write_bytes(RECIPE.read_bytes())
    recipe = require_recipe(tmp_path / "mine.yaml")
    (tmp_path / "prompts" / "train.jsonl").unlink()
    with pytest.raises(StageError, match=r"stage 'prompts': .*train.jsonl is gone \(.*mine.yaml:\d+\)"):
        plan(recipe, store, Choice())


def test_an_accepted_output_differs_in_nothing_but_code(store: Store, monkeypatch: pytest.MonkeyPatch):
    furnish(store, require_recipe(RECIPE))
    furnish(store, require_recipe(RECIPE, ["training.epochs=9"]))  # newer, and as near
    monkeypatch.setattr(keys, "module_digest", lambda name: "edited")
    outputs = planned(store, choice=Choice(accept=frozenset({"verifier", "prompts", "responses"})))
    assert [one.action for one in outputs.values()][:4] == [ACCEPT] * 3 + [RUN]
    accepted = outputs["verifier"].like
    assert accepted is not None
    (accepted.path / "made.txt").unlink()
    assert planned(store, choice=Choice(accept=frozenset({"verifier"})))["verifier"].action == RUN


def test_a_damaged_seal_or_key_in_the_store_stops_no_plan(store: Store):
    outputs = furnish(store, require_recipe(RECIPE))
    (outputs["training"] / "key.json").write_text("[1, 2]")
    assert reasons(planned(store, "training.epochs=9")["training"]) == ["no earlier output"]
    (outputs["responses"] / "output.json").write_text("{")
    found = planned(store)
    assert found["responses"].action == RUN
    assert "without --remake-damaged" in reasons(found["responses"])[0]
    assert plan_text.table("x", list(found.values()), None)


def test_interrupted_work_of_the_same_key_is_announced(store: Store):
    recipe = require_recipe(RECIPE)
    key = planned(store)["verifier"].key
    (store.partial("verifier", key) / WORK_NAME).mkdir(parents=True)
    (one, *_) = plan(recipe, store, Choice())
    assert one.continues
    (fresh, *_) = plan(recipe, store, Choice(fresh=frozenset({ALL})))
    assert not fresh.continues  # it will be forgotten
    assert "continues interrupted work" in plan_text.table(recipe.name, [one], None)


def table(recipe: Recipe, store: Store) -> str:
    return plan_text.table(recipe.name, plan(recipe, store, Choice()), benchmark_seconds=600.0)


def test_the_table_estimates_from_earlier_runs(store: Store):
    furnish(store, require_recipe(RECIPE))
    head, *lines = table(require_recipe(RECIPE, ["training.epochs=9"]), store).splitlines()
    assert head == (
        "smollm2-135m-eagle3 · 7 stages, 2 to run · about 12 min 00 s, 15 B of disk (from earlier runs)"
    )
    assert lines[4] == "  ~ training       run      training.epochs 5 -> 9  (--set[1])"
    assert lines[0].startswith("  = verifier       reuse    ")


def test_many_changed_modules_are_counted_not_listed(store: Store, monkeypatch: pytest.MonkeyPatch):
    furnish(store, require_recipe(RECIPE))
    monkeypatch.setattr(keys, "module_digest", lambda name: "edited")
    text = table(require_recipe(RECIPE), store)
    assert "more of this kind" in text
    assert text.count("changed") < 40


def test_the_document_holds_every_reason(store: Store):
    furnish(store, require_recipe(RECIPE))
    recipe = require_recipe(RECIPE, ["training.epochs=9"])
    document = plan_text.document(recipe.name, plan(recipe, store, Choice()), None)
    training = next(one for one in document["stages"] if one["name"] == "training")
    assert document["work"] is True
    assert training["reasons"] == [{"kind": "value", "text": "training.epochs 5 -> 9", "place": "--set[1]"}]
    assert training["seconds"] == 60.0
    assert json.loads(json.dumps(document)) == document
