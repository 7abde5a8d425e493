"""What a lock means for a job folder: it goes along, and what differs from it is refused at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from speculators.cli import app
from speculators.errors import RecipeError
from speculators.executors.images import ROLES
from speculators.pipeline import locking
from speculators.pipeline.lock import ImagePin, parse, render
from speculators.pipeline.pins import gather
from speculators.pipeline.premises import Wanted, settle
from speculators.pipeline.surroundings import IMAGES_VARIABLE
from speculators.recipe.recipe import Recipe, require_recipe
from tests.render.rendered import DIGEST, SMOLLM

OTHER = DIGEST[:-1] + "0"
CPU = f"cpu=registry.example/cpu@{DIGEST}"
PUSHED = f"registry.example:5000/cpu:1@{DIGEST}"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The shipped recipe with a lock of this machine."""
    monkeypatch.setenv("SPECULATORS_HOME", str(tmp_path / "home"))
    shutil.copytree(SMOLLM.parent / "prompts", tmp_path / "my" / "prompts")
    shutil.copyfile(SMOLLM, tmp_path / "my" / "r.yaml")
    found = require_recipe(tmp_path / "my" / "r.yaml")
    lock(found)
    return found


def lock(recipe: Recipe, reference: str = "", digest: str = "") -> None:
    pins = dict(gather(recipe, Path("/nowhere")).values)
    if reference:
        image = ImagePin("engine", reference, digest, "linux/amd64", {})
        for role in ("engine", "trainer", "bench"):
            at = ("images", role)
            pins |= {(*at, "digest"): image.digest, (*at, "platform"): image.platform}
            pins[(*at, "reference")] = image.reference
    locking.lock_path(recipe.path).write_text(render(pins))


def rendered(recipe: Recipe, *words: str) -> tuple[int, Path]:
    place = recipe.path.parent.parent / "job"
    command = ["render", str(recipe.path), "--to", "sbatch", "--output", str(place), "--allow-untested"]
    return app.main([*command, *words]), place


def stale_there(place: Path, home: Path) -> list[str]:
    moved = require_recipe(place / "recipe.yaml")
    found = locking.check(moved, locking.lock_path(moved.path), gather(moved, home))
    return [one.name for one in found]


def test_a_job_holds_models_and_prompts_to_the_lock(recipe: Recipe, tmp_path: Path) -> None:
    code, place = rendered(recipe, "--image", CPU)
    assert code == 0
    assert stale_there(place, tmp_path / "there") == []
    prompts = next((place / "files" / "benchmark.prompts").iterdir())
    prompts.write_text(prompts.read_text().replace("a", "b", 1))
    assert stale_there(place, tmp_path / "there") == [
        f"prompts.benchmark.{prompts.relative_to(place)}.sha256"
    ]


def test_a_recipe_without_a_lock_gets_none(recipe: Recipe) -> None:
    code, place = rendered(recipe, "--image", CPU)
    assert (code, (place / "recipe.lock.yaml").is_file()) == (0, True)
    locking.lock_path(recipe.path).unlink()
    code, place = rendered(recipe, "--image", CPU)
    assert (code, (place / "recipe.lock.yaml").exists()) == (0, False)


def test_other_prompts_than_locked_are_refused_before_anything_is_written(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    with recipe.files()["benchmark.prompts"][0].open("a") as prompts:
        prompts.write('{"id": "new", "topic": "t", "prompt": "hello"}\n')
    code, place = rendered(recipe, "--image", CPU)
    told = capsys.readouterr().err
    assert (code, place.exists()) == (2, False)
    assert "pins other inputs than are here" in told
    assert "prompts/benchmark.jsonl" in told


def test_prompts_that_the_command_line_chose_are_locked_for_the_jobs(recipe: Recipe, tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text((recipe.path.parent / "prompts" / "benchmark.jsonl").read_text().replace("a", "b", 1))
    code, place = rendered(recipe, "--image", CPU, "--set", f"benchmark.prompts={mine}")
    assert code == 0
    assert stale_there(place, tmp_path / "there") == []
    names = {
        path[2] for path in parse((place / "recipe.lock.yaml").read_text(), "x").pins if path[0] == "prompts"
    }
    assert "files/benchmark.prompts/0-mine.jsonl" in names


def images_of(place: Path) -> set[str]:
    return {job["image"] for job in json.loads((place / "render.json").read_text())["jobs"]}


def test_an_image_without_a_digest_is_taken_by_that_in_the_lock(recipe: Recipe) -> None:
    lock(recipe, PUSHED, DIGEST)
    code, place = rendered(recipe)
    assert code == 0
    assert images_of(place) == {f"registry.example:5000/cpu@{DIGEST}"}


def job_pins(place: Path) -> dict[str, str]:
    """The images in the lock of a job folder, by dotted names below the roles."""
    pins = parse((place / "recipe.lock.yaml").read_text(), "x").pins
    return {".".join(map(str, path[1:])): str(pin) for path, pin in pins.items() if path[0] == "images"}


def settled_there(place: Path, **images: str) -> dict[str, Any]:
    """What a job in the folder settles before it starts, in the images that it is told of."""
    told = " ".join(f"{role}=registry.example/{role}@{digest}" for role, digest in images.items())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(IMAGES_VARIABLE, told)
        moved = require_recipe(place / "recipe.yaml")
        return settle(moved, Wanted(), (), place / "home", lambda _: None).record


@pytest.mark.parametrize("in_the_lock", [True, False])
def test_a_job_in_another_image_than_the_folders_lock_has_does_not_start(
    recipe: Recipe, in_the_lock: bool
) -> None:
    if in_the_lock:
        lock(recipe, PUSHED, DIGEST)
    code, place = rendered(recipe, "--image", CPU)
    assert code == 0
    pins = job_pins(place)
    assert {pins[f"{role}.digest"] for role in ROLES} == {DIGEST}
    assert {pins[f"{role}.reference"] for role in ROLES} == {f"registry.example/cpu@{DIGEST}"}
    assert {pins[f"{role}.platform"] for role in ROLES} == {"linux/amd64"}
    record = settled_there(place, **dict.fromkeys(ROLES, DIGEST))
    assert {role: one["digest"] for role, one in record["images"].items()} == dict.fromkeys(ROLES, DIGEST)
    assert record["images"]["engine"]["tested"] is False  # an image that was pushed from somewhere
    with pytest.raises(RecipeError, match=rf"images\.trainer\.digest {DIGEST[7:19]} -> ") as refused:
        settled_there(place, **{**dict.fromkeys(ROLES, DIGEST), "trainer": OTHER})
    assert refused.value.rule == "stale-lock"


def test_images_for_several_kinds_of_machine_are_locked_by_the_first_job(recipe: Recipe) -> None:
    settings = ("--set", "container.images=cuda", "--set", "container.gpus=1")
    mine = [f"{role}=registry.example/{role}@{OTHER}" for role in ("trainer", "bench")]
    code, place = rendered(recipe, *settings, *(word for one in mine for word in ("--image", one)))
    assert (code, job_pins(place)) == (0, {})
    settled_there(place, **dict.fromkeys(ROLES, OTHER))
    assert job_pins(place)["bench.digest"] == OTHER
    with pytest.raises(RecipeError, match="pins other inputs than are here"):
        settled_there(place, **dict.fromkeys(ROLES, DIGEST))


def test_an_image_that_the_lock_knows_by_its_contents_alone_cannot_be_pulled(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    lock(recipe, "speculators/cpu:0.32.0", OTHER)
    assert rendered(recipe)[0] == 2
    assert "no digest in a registry" in capsys.readouterr().err
    code, place = rendered(recipe, "--image", CPU)  # the same contents, for all that is known here
    assert (code, images_of(place)) == (0, {f"registry.example/cpu@{DIGEST}"})


def test_another_image_than_the_lock_pins_is_refused(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    lock(recipe, PUSHED, DIGEST)
    code, place = rendered(recipe, "--image", f"trainer=registry.example/cpu@{OTHER}")
    assert (code, place.exists()) == (2, False)
    assert f"image 'trainer' is registry.example/cpu@{OTHER}, but the lock pins {PUSHED}" in (
        capsys.readouterr().err
    )
    # The same image from elsewhere is no other one.
    code, place = rendered(recipe, "--image", CPU)
    assert (code, images_of(place)) == (0, {f"registry.example/cpu@{DIGEST}"})


def test_a_set_of_images_that_the_command_line_chose_is_not_held_to_the_lock(recipe: Recipe) -> None:
    lock(recipe, PUSHED, DIGEST)
    chosen = ("--set", "container.images=cuda", "--set", "container.gpus=1")
    mine = [f"{role}=registry.example/{role}@{OTHER}" for role in ("trainer", "bench")]
    code, place = rendered(recipe, *chosen, *(word for one in mine for word in ("--image", one)))
    assert code == 0
    assert f"registry.example/trainer@{OTHER}" in images_of(place)


def test_an_image_of_another_origin_is_taken_only_when_asked(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["render", str(recipe.path), "--to", "sbatch", "--output", str(recipe.path.parent / "job")]
    for words in ([], ["--image", CPU]):
        lock(recipe, PUSHED, DIGEST)
        assert app.main([*command, *words]) == 2
        told = capsys.readouterr().err
        assert "speculators was not tested in this image" in told
        assert "--allow-untested" in told
