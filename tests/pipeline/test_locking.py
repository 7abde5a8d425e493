"""The lock beside a recipe: what a run does with it, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from speculators.errors import MachineError, RecipeError
from speculators.pipeline.lock import TOOL_DIGEST, ImagePin, Pin, Pins, Unseen, parse
from speculators.pipeline.locking import LockState, enforce, lock_path, renew
from speculators.pipeline.pins import gather, recipe_digest
from speculators.recipe.positions import Path as PinPath
from speculators.recipe.recipe import Recipe, require_recipe
from tests.pipeline.test_pins import recipe, write_model

IMAGE = ImagePin("engine", "x/cpu:1", "sha256:" + "a" * 64, "linux/amd64", {"torch": "2.13.0"})
FOREIGN = "7" * 64


@pytest.fixture
def given(tmp_path: Path) -> Recipe:
    return recipe(tmp_path)


def present(given: Recipe, **images: ImagePin) -> Pins:
    found = gather(given, given.path.parent / "home", images or None)
    return found._replace(checkout=False)


def run(given: Recipe, pins: Pins | None = None, *, locked: bool = False) -> LockState:
    return enforce(given, lock_path(given.path), pins or present(given), locked=locked)


def text_of(given: Recipe) -> str:
    return lock_path(given.path).read_text(encoding="utf-8")


def with_pin(pins: Pins, path: PinPath, pin: Pin) -> Pins:
    return pins._replace(values={**pins.values, path: pin})


def line_of(given: Recipe, *path: str) -> int:
    """The line of a pin in the lock."""
    read = parse(text_of(given), "x")
    assert path in read.pins
    return read.positions.key(path).line


def test_a_run_writes_an_absent_lock_and_the_next_one_finds_it_right(given: Recipe) -> None:
    first = run(given)
    assert first.written
    assert first.notes == (f"{lock_path(given.path)} written",)
    assert text_of(given) == first.text
    assert run(given) == run(given, locked=True) == LockState(first.text)


def test_an_absent_lock_is_an_error_when_locked(given: Recipe) -> None:
    with pytest.raises(RecipeError, match="is not there, but --locked was given") as caught:
        run(given, locked=True)
    assert caught.value.exit_code == 2
    assert caught.value.hint == f"write it with: speculators lock {given.path}"
    assert not lock_path(given.path).exists()


def test_where_the_folder_cannot_be_written_the_run_goes_on_with_a_note(
    given: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("speculators.pipeline.locking.write_text", refuse)  # tests run as root
    state = run(given)
    assert not state.written
    assert "is not written (Permission denied); the run keeps a lock of its own" in state.notes[0]
    assert parse(state.text, "x").pins == present(given).values


def edit_weights(given: Recipe) -> None:
    (given.path.parent / "model" / "model.safetensors").write_bytes(b"other weights")


def edit_tokenizer(given: Recipe) -> None:
    (given.path.parent / "model" / "tokenizer.json").write_text("{}")


def edit_prompts(given: Recipe) -> None:
    with (given.path.parent / "prompts.jsonl").open("a") as file:
        file.write('{"id": "z", "topic": "t", "prompt": "one more"}\n')


def drop_a_file(given: Recipe) -> None:
    (given.path.parent / "model" / "tokenizer_config.json").unlink()


def edit_draft(given: Recipe) -> None:
    (given.path.parent / "draft" / "model.safetensors").write_bytes(b"other draft")


@pytest.mark.parametrize("locked", [False, True])
@pytest.mark.parametrize(
    ("edit", "pin", "block"),
    [
        (edit_weights, ("files", "model.safetensors"), "models.verifier"),
        (edit_tokenizer, ("tokenizer",), "models.verifier"),
        (drop_a_file, ("files", "tokenizer_config.json"), "models.verifier"),
        (edit_prompts, ("prompts.jsonl", "rows"), "prompts.benchmark"),
        (edit_draft, ("files", "model.safetensors"), "models.draft"),
    ],
)
def test_another_input_than_locked_does_not_start(
    given: Recipe, edit: Callable[[Recipe], None], pin: tuple[str, ...], block: str, locked: bool
) -> None:
    run(given)
    before = text_of(given)
    edit(given)
    with pytest.raises(RecipeError) as caught:
        run(given, locked=locked)
    line = line_of(given, *block.split("."), *pin)
    assert f"{lock_path(given.path)}:{line}:" in caught.value.message
    assert caught.value.hint.endswith(f"speculators lock {given.path} --update {block}")
    assert (caught.value.exit_code, caught.value.rule) == (2, "stale-lock")
    assert text_of(given) == before
    renew(given, lock_path(given.path), present(given), [block])
    assert run(given, locked=True).notes == ()


def test_a_file_that_came_to_a_locked_model_is_not_taken_for_a_first_look(given: Recipe) -> None:
    right = run(given).text
    (given.path.parent / "model" / "generation_config.json").write_text("{}")
    with pytest.raises(RecipeError, match=r"files\.generation_config\.json \(none\) -> ") as caught:
        run(given)
    block = 1 + text_of(given).split("  verifier:")[0].count("\n") + 2  # below it: chat_template, files
    assert f"{lock_path(given.path)}:{block}:5: models.verifier.files.generation" in caught.value.message
    assert text_of(given) == right


def test_every_stale_pin_has_its_line(given: Recipe) -> None:
    run(given)
    edit_weights(given)
    edit_prompts(given)
    with pytest.raises(RecipeError) as caught:
        run(given)
    first, *lines = caught.value.message.split("\n")
    assert first == f"{lock_path(given.path)} pins other inputs than are here"
    assert [line.split()[1] for line in lines] == [
        "models.verifier.files.model.safetensors",
        "prompts.benchmark.prompts.jsonl.rows",
        "prompts.benchmark.prompts.jsonl.sha256",
    ]
    assert " 2 -> 3" in lines[1]


@pytest.mark.parametrize(
    ("path", "kind"),
    [(("packages", "torch"), "package"), (("tool", "version"), "tool"), (TOOL_DIGEST, "tool")],
)
def test_another_package_or_tool_is_a_note_unless_locked(
    given: Recipe, path: tuple[str, ...], kind: str
) -> None:
    run(given)
    before = text_of(given)
    other = with_pin(present(given), path, FOREIGN)
    state = run(given, other)
    (note,) = state.notes
    place = f"{lock_path(given.path)}:{line_of(given, *path)}"
    assert note.startswith(f"{place}: {kind} differs from the lock: {'.'.join(path)} ")
    assert note.endswith(f"speculators lock {given.path} --update {path[0]}")
    assert FOREIGN in state.text
    assert text_of(given) == before
    with pytest.raises(RecipeError, match="is out of date, but --locked was given"):
        run(given, other, locked=True)


def test_an_edited_recipe_is_a_note_unless_locked(given: Recipe) -> None:
    run(given)
    before = text_of(given)
    given.path.write_text(given.sources[0].text.replace("requests: 1", "requests: 2"))
    edited = require_recipe(given.path)
    (note,) = run(edited).notes
    assert "recipe differs from the lock: recipe " in note
    assert text_of(given) == before
    with pytest.raises(RecipeError, match=f"{line_of(given, 'recipe')}:1: recipe"):
        run(edited, locked=True)


def test_overrides_neither_write_nor_break_the_lock(given: Recipe) -> None:
    changed = require_recipe(given.path, ["benchmark.requests=2"])
    state = run(changed)
    assert not lock_path(given.path).exists()
    assert "--set changes the recipe" in state.notes[0]
    run(given)
    before = text_of(given)
    for locked in (False, True):
        state = run(changed, locked=locked)
        assert "recipe differs from the lock" in state.notes[0]
        assert "--update" not in state.notes[0]
        assert recipe_digest(changed.data) in state.text
        assert recipe_digest(given.data) not in state.text
    assert text_of(given) == before


def test_an_input_that_the_command_line_chose_is_a_note_and_others_still_stop_the_run(given: Recipe) -> None:
    run(given)
    write_model(given.path.parent / "other").joinpath("model.safetensors").write_bytes(b"another")
    chosen = require_recipe(given.path, ["verifier.path=other"])
    assert any("model differs from the lock" in note for note in run(chosen).notes)
    with pytest.raises(RecipeError):
        run(chosen, locked=True)
    edit_prompts(given)
    with pytest.raises(RecipeError, match=r"prompts\.jsonl\.rows 2 -> 3") as caught:
        run(chosen)
    assert "models.verifier" not in caught.value.message


def test_the_first_run_in_containers_adds_the_images_and_a_local_one_keeps_them(given: Recipe) -> None:
    local = run(given)
    pins = present(given)
    in_images = {path: pin for path, pin in pins.values.items() if path[0] != "packages"}
    in_images |= {
        ("images", "engine", name): getattr(IMAGE, name) for name in ("digest", "platform", "reference")
    }
    contained = Pins(in_images, {}, frozenset({("packages",)}))
    with pytest.raises(RecipeError, match=r"images\.engine\.digest \(none\) -> aaaaaaaaaaaa"):
        run(given, contained, locked=True)
    state = run(given, contained)
    assert state.notes == (f"images added to {lock_path(given.path)}",)
    assert "packages" not in state.text
    assert parse(text_of(given), "x").pins == {**pins.values, **in_images}
    assert run(given, contained, locked=True).notes == ()
    assert run(given, locked=True) == LockState(local.text)
    other = with_pin(contained, ("images", "engine", "digest"), "sha256:" + "b" * 64)
    with pytest.raises(RecipeError, match=r"images\.engine\.digest aaaaaaaaaaaa -> bbbbbbbbbbbb"):
        run(given, other)
    mirror = with_pin(contained, ("images", "engine", "reference"), "mirror/cpu:1")
    assert "images.engine.reference x/cpu:1 -> mirror/cpu:1" in run(given, mirror).notes[0]


def test_a_model_that_is_not_here_is_not_compared_but_said_and_nothing_is_lost(given: Recipe) -> None:
    run(given)
    pins = present(given)
    values = {path: pin for path, pin in pins.values.items() if path[:2] != ("models", "verifier")}
    absent = pins._replace(
        values=values, unseen={("models", "verifier"): Unseen("it is not here", "fetch it")}
    )
    (note,) = run(given, absent, locked=True).notes
    assert note == "not compared with the lock: models.verifier (it is not here)"
    with pytest.raises(MachineError, match="it is not here") as caught:
        renew(given, lock_path(given.path), absent)
    assert caught.value.hint == "fetch it"
    before = text_of(given)
    assert not renew(given, lock_path(given.path), absent, ["prompts"]).written
    assert text_of(given) == before
    lock_path(given.path).unlink()
    assert run(given, absent).notes == (f"{lock_path(given.path)} is not written: it is not here",)
    assert not lock_path(given.path).exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("lock/v1", "lock/v2", "x.lock.yaml:3:9: error: this version of speculators reads"),
        ("name: x", "name: y", "this is the lock of recipe 'y', not of 'x'"),
        ("recipe:", "recipe", "x.lock.yaml:"),
    ],
)
def test_a_lock_that_cannot_be_used_stops_the_run_and_is_written_anew_on_request(
    given: Recipe, old: str, new: str, words: str
) -> None:
    right = run(given).text
    lock_path(given.path).write_text(right.replace(old, new))
    for locked in (False, True):
        with pytest.raises(RecipeError) as caught:
            run(given, locked=locked)
        assert words in caught.value.message
        assert "speculators lock" in caught.value.hint
    with pytest.raises(RecipeError):
        renew(given, lock_path(given.path), present(given), ["prompts"])
    done = renew(given, lock_path(given.path), present(given))
    assert done.notes[0].startswith("replaced: ")
    assert text_of(given) == right


def test_a_checkout_does_not_pin_its_own_sources_beside_the_recipe(given: Recipe) -> None:
    checkout = present(given)._replace(checkout=True)
    state = run(given, checkout)
    assert TOOL_DIGEST in parse(state.text, "x").pins
    assert TOOL_DIGEST not in parse(text_of(given), "x").pins
    assert run(given, with_pin(checkout, TOOL_DIGEST, FOREIGN), locked=True).notes == ()


def test_the_states_digest_is_that_of_its_text(given: Recipe) -> None:
    from speculators.documents import file_digest

    assert run(given).sha256 == file_digest(lock_path(given.path))


def test_what_a_lock_says_nothing_of_yet_is_no_difference_from_it(given: Recipe) -> None:
    run(given)
    changed = require_recipe(given.path, ["executor=docker", "benchmark.requests=2"])
    notes = run(changed, present(changed, engine=IMAGE)).notes
    assert notes
    assert not any("images" in note for note in notes)


def test_an_image_that_the_command_line_chose_starts_and_is_locked_for_nobody(given: Recipe) -> None:
    docker = require_recipe(given.path, ["executor=docker"])
    run(docker, present(docker, engine=IMAGE))
    before = text_of(given)
    assert IMAGE.digest in before
    other = present(docker, engine=IMAGE._replace(digest="sha256:" + "b" * 64))
    with pytest.raises(RecipeError, match=r"images\.engine\.digest"):
        run(docker, other)
    path = lock_path(given.path)
    state = enforce(docker, path, other, locked=False, images_chosen=True)
    assert "b" * 64 in state.text
    assert text_of(given) == before
    with pytest.raises(RecipeError, match=r"images\.engine\.digest"):
        enforce(docker, path, other, locked=True, images_chosen=True)
    path.unlink()
    assert not enforce(docker, path, other, locked=False, images_chosen=True).written
