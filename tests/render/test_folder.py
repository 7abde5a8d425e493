"""The job folder and its verb: what is in it, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from speculators.cli import app
from speculators.documents import tree_digest
from speculators.errors import RecipeError
from speculators.pipeline.plan import stage_files
from speculators.recipe.recipe import require_recipe
from speculators.render import folder
from speculators.render.jobs import Options, jobs_of
from speculators.stages.table import PROMPTS
from tests.render.rendered import DIGEST, QWEN, SETTINGS, SMOLLM, cuda_images, on_gpus

CPU = f"cpu=registry.example/cpu@{DIGEST}"


def render(*words: str) -> int:
    return app.main(["render", str(SMOLLM), "--image", CPU, "--allow-untested", *words])


def test_the_folder_holds_the_recipe_its_files_and_the_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "out folder"
    assert render("--to", "sbatch", "--output", str(place), "--set", "training.epochs=3", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "speculators/render/v1"
    assert [job["stage"] for job in document["jobs"]][-1] == "benchmark"
    moved, here = require_recipe(place / "recipe.yaml"), require_recipe(SMOLLM, ["training.epochs=3"])
    assert moved.data["training"] == here.data["training"]
    contents = [
        {name: [tree_digest(path) for path in paths] for name, paths in stage_files(recipe, PROMPTS).items()}
        for recipe in (moved, here)
    ]
    assert contents[0] == contents[1]
    assert len(contents[0]) == 2
    assert all(place in path.parents for paths in moved.files().values() for path in paths)
    # The code runs from there, without this checkout.
    command = [sys.executable, "-m", "speculators", "check", "recipe.yaml"]
    env = {**os.environ, "PYTHONPATH": str(place / "package"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    asked = "import speculators.executors.images as i; print(i.__file__, len(i.load_images().images))"
    done = subprocess.run(
        [sys.executable, "-c", asked], cwd="/", env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(str(place / "package"))


def test_a_verifier_and_a_draft_in_folders_come_along(tmp_path: Path) -> None:
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft" / "config.json").write_text("{}")
    recipe = on_gpus()
    data = {**recipe.data, "draft": "draft"}
    brought = type(recipe)(tmp_path / "r.yaml", "r", "", (), data, recipe.positions)
    moved, copies = folder.with_files_beside(brought)
    assert moved["draft"] == "files/draft/0-draft"
    assert copies["files/draft/0-draft"] == tmp_path / "draft"
    assert recipe.data["executor"] == "local"
    assert brought.data["draft"] == "draft"  # the recipe itself is as it was


def test_rendering_again_replaces_what_was_rendered_and_keeps_results(tmp_path: Path) -> None:
    place = tmp_path / "out"
    assert render("--to", "k8s", "--claim", "c", "--output", str(place)) == 0
    (place / "runs").mkdir()
    (place / "files" / "stale").touch()
    assert render("--to", "sbatch", "--output", str(place)) == 0
    assert (place / "runs").is_dir()
    assert not (place / "job.yaml").exists()
    assert not (place / "files" / "stale").exists()
    assert os.access(place / "submit.sh", os.X_OK)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("mine")
    assert render("--to", "sbatch", "--output", str(tmp_path)) == 2
    assert "is no earlier rendering" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "sbach"], "--to sbach: no such cluster"),
        (["--to", "sbatch", "--claim", "x"], "--to sbatch has no use for --claim"),
        (["--to", "k8s"], "name a PersistentVolumeClaim: --claim NAME"),
        (["--to", "sbatch", "--image", "engine"], "--image engine: give NAME=REFERENCE"),
        (["--to", "sbatch", "--image", "engin=x"], "did you mean 'engine'"),
        (["--to", "sbatch", "--set", "container.gpus=all"], "say how many: --set container.gpus=1"),
        (["--to", "sbatch", "--set", "training.epochs=0"], "training.epochs"),
        (["--to", "sbatch", "--partition", "a b"], "--partition: 'a b' is no name"),
    ],
)
def test_what_cannot_be_meant_exits_2_and_writes_nothing(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert render("--output", str(tmp_path / "out"), *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_image_that_was_only_built_here_is_refused_with_the_way_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    assert app.main(["render", str(QWEN), "--to", "sbatch", *words]) == 2
    told = capsys.readouterr().err
    assert "'cuda-trainer' (speculators/cuda-trainer:0.31.0), 'cuda-bench'" in told
    assert "--image cuda-trainer=REPOSITORY@sha256:... --image cuda-bench=REPOSITORY@sha256:..." in told
    assert "cuda-engine=" not in told


def test_gpu_images_without_gpus_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"container\.gpus is 0"):
        jobs_of(require_recipe(QWEN, ["container.gpus=0"]), cuda_images())


def test_nothing_of_this_machine_is_in_a_script() -> None:
    recipe = on_gpus()
    for to, options in {"sbatch": Options(), "k8s": Options(claim="c")}.items():
        texts = folder.render(recipe, to, cuda_images(), options).texts
        for name, text in texts.items():
            for own in (str(Path.cwd()), str(Path.home()) + "/", os.uname().nodename + "."):
                assert own not in text, (name, own)
