"""``speculators images`` where no engine runs: what still works, and how the rest ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from speculators.cli import app
from speculators.executors.images import load_images
from speculators.pipeline.containers import locked_images
from speculators.recipe.recipe import require_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")


def test_list_works_without_an_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["images", "list"]) == 0
    shown = capsys.readouterr()
    for name, image in load_images().images.items():
        assert f"\n{name} " in shown.out
        assert image.reference in shown.out
    assert "set cuda: engine cuda-engine, trainer cuda-trainer, bench cuda-bench" in shown.out
    assert "no container engine answers" in shown.err


def test_list_json_does_not_claim_to_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["images", "list", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["engine"] is False
    assert {row["present"] for row in document["images"].values()} == {None}
    assert document["images"]["cuda-engine"]["digest"].startswith("sha256:")
    assert document["images"]["cpu"]["digest"] is None


@pytest.mark.parametrize("verb", ["build", "verify"])
def test_without_an_engine_the_machine_lacks_something(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["images", verb, "cpu"]) == 4
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "[no-container-engine]" in shown.err
    assert "DOCKER_HOST" in shown.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["build", "cqu"], "did you mean 'cpu'?"),
        (["verify", "cuda-enjine"], "did you mean 'cuda-engine'?"),
        (["build", "--base", "x:1"], "--base is for one image"),
        (["build", "cpu", "--index-url", "https://me:secret@packages.example/simple"], "[secret]"),
        (["buidl"], "[usage]"),
    ],
)
def test_a_wrong_command_line_exits_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["images", *arguments]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert "me:secret" not in shown.err


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The shipped recipe with its own lock, which knows no images."""
    shutil.copytree(RECIPES, tmp_path / "recipes")
    return tmp_path / "recipes" / "smollm2-135m-eagle3.yaml"


def test_images_are_verified_against_a_lock_that_has_some(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["images", "verify", "--recipe", str(recipe)]
    assert app.main(command) == 2
    shown = capsys.readouterr().err
    assert "smollm2-135m-eagle3.lock.yaml pins no images" in shown
    assert f"speculators lock {recipe} --executor docker" in shown
    lock = recipe.with_suffix(".lock.yaml")
    lock.unlink()
    assert app.main(command) == 2
    assert f"{lock} is not there" in capsys.readouterr().err
    assert app.main([*command, "cpu"]) == 2
    assert "leave NAME out" in capsys.readouterr().err


def test_a_lock_names_each_image_once_with_its_roles(recipe: Path) -> None:
    digest, pushed = f"sha256:{'a' * 64}", f"registry.example/cpu:1@sha256:{'b' * 64}"
    lock = recipe.with_suffix(".lock.yaml")
    image = f"    digest: {digest}\n    platform: linux/amd64\n"
    lock.write_text(
        lock.read_text().replace(
            "models:\n",
            f"images:\n  bench:\n{image}    reference: speculators/cpu:0.32.0\n"
            f"  engine:\n{image}    packages:\n      torch: 2.0.0\n    reference: {pushed}\n"
            f"  trainer:\n{image}    reference: speculators/cpu:0.32.0\nmodels:\n",
            1,
        )
    )
    ours, theirs = locked_images(require_recipe(recipe))
    assert (ours.roles, ours.digest, ours.image.tested) == (("bench", "trainer"), digest, True)
    assert (theirs.roles, theirs.image.reference, theirs.image.tested) == (("engine",), pushed, False)
    assert theirs.packages == {"torch": "2.0.0"}


def test_alone_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["images"]) == 0
    assert "verify" in capsys.readouterr().out
