"""A stranger's bundle: what it must not get, though all of its digests fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from speculators.bundle.archive import DamagedBundleError
from speculators.bundle.create import bundle
from speculators.bundle.repeat import below, prepare, unpack
from speculators.bundle.trust import concerns
from speculators.bundle.verify import verify
from speculators.cli.app import main
from speculators.errors import RecipeError
from speculators.recipe.recipe import require_recipe
from tests.bundle.forgery import Members, add, edit, rename_run, rewritten
from tests.bundle.world import a_recipe, a_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundle")
    return bundle(a_run(root), root / "whole.speculators.tar").path


def test_the_forgery_of_these_tests_is_found_out_by_nothing_else(whole: Path, tmp_path: Path):
    other = "20260102-030405-0000"
    path = rewritten(whole, tmp_path / "forged.tar", lambda members: rename_run(members, other))
    assert verify(path).description["run"] == other


@pytest.mark.parametrize(
    "run", ["../../../ESCAPED", "/tmp/ESCAPED", "..", ".", "", "20260102-030405-abcd/.."]
)
def test_a_runs_id_is_no_way_out(whole: Path, tmp_path: Path, run: str):
    path = rewritten(whole, tmp_path / "forged.tar", lambda members: rename_run(members, run))
    with pytest.raises(DamagedBundleError, match=r"bundle\.json: \$\.run"):
        prepare(str(path), tmp_path / "runs" / "repeats")
    assert [one.name for one in tmp_path.iterdir()] == ["forged.tar"]


@pytest.mark.parametrize("name", ["../x", "..", ".", "", "/x", "a/../../x", "link/x"])
def test_every_place_is_below_its_root(tmp_path: Path, name: str):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    with pytest.raises(RecipeError, match="leads out of"):
        below(tmp_path / "root", name)
    assert below(tmp_path / "root", "a/b") == tmp_path / "root" / "a" / "b"


@pytest.mark.parametrize("change", [{"recipe_folder": "../.."}, {"recipe": {"name": "../../x"}}])
def test_a_recipes_place_is_no_way_out(whole: Path, tmp_path: Path, change: dict[str, object]):
    bundle = verify(whole)
    with pytest.raises(RecipeError, match="leads out of"):
        unpack(bundle._replace(description=bundle.description | change), tmp_path / "repeats" / "one")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["files/home/store/training/x/key.json", "files/sitecustomize.py"])
def test_files_that_the_recipe_does_not_name_are_refused(whole: Path, tmp_path: Path, name: str):
    path = rewritten(whole, tmp_path / "more.tar", lambda members: add(members, name, b"{}"))
    with pytest.raises(DamagedBundleError, match=f"{name}: no file that the recipe names"):
        verify(path)

    def listed(members: Members) -> None:
        add(members, name, b"{}")
        edit("bundle.json", lambda listing: listing["files"].update({"engine.args.x": [name]}))(members)

    with pytest.raises(DamagedBundleError, match=r"other prompt files than resolved\.yaml names"):
        verify(rewritten(whole, tmp_path / "listed.tar", listed))


def with_settings(folder: Path, *overrides: str) -> str:
    """The bundle of a run of a recipe with these settings."""
    a_recipe(folder / "recipes")
    recipe = require_recipe(folder / "recipes" / "my.yaml", overrides)
    return str(bundle(a_run(folder, recipe), folder / "one.speculators.tar").path)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("engine.env.VLLM_PLUGINS=evil", "engine.env.VLLM_PLUGINS"),
        ("engine.env.OMP_NUM_THREADS=./x", "engine.env.OMP_NUM_THREADS"),
        ("engine.args.worker_cls=evil.Worker", "engine.args.worker_cls"),
        ("engine.args.load_format=pt", "engine.args.load_format"),
        ("engine.args.dtype=evil.module", "engine.args.dtype"),
        ("engine.args.hf_config_path=./x", "engine.args.hf_config_path"),
        ("verifier.trust_remote_code=true", "verifier.trust_remote_code"),
        ("container.secrets=[HF_TOKEN]", "container.secrets"),
    ],
)
def test_what_can_run_code_or_see_secrets_needs_trust(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, named: str
):
    source, runs = with_settings(tmp_path, override), tmp_path / "again"
    assert main(["run", source, "--runs-dir", str(runs)]) == 2
    shown = capsys.readouterr().err
    assert f"\n  {named}: " in shown
    assert "--trust-recipe" in shown
    assert "[untrusted-recipe]" in shown
    assert not runs.exists()
    assert prepare(source, runs / "repeats", trusted=True).recipe.is_file()
    assert prepare(source, runs / "repeats", [override]).recipe.is_file()  # one's own wish


@pytest.mark.parametrize("name", ["LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSTARTUP"])
def test_variables_that_load_code_are_refused_however_much_a_bundle_is_trusted(tmp_path: Path, name: str):
    source = with_settings(tmp_path, f"engine.env.{name}=/tmp/evil")
    with pytest.raises(RecipeError, match=rf"engine\.env\.{name}") as refused:
        prepare(source, tmp_path / "repeats", trusted=True)
    assert (refused.value.exit_code, refused.value.rule) == (2, "forbidden-recipe")
    assert not (tmp_path / "repeats").exists()


@pytest.mark.parametrize(
    "recipe", sorted((ROOT / "recipes").glob("*-eagle3.yaml")), ids=lambda path: path.stem
)
def test_the_shipped_recipes_ask_for_no_trust(recipe: Path):
    assert concerns(require_recipe(recipe).data) == []


@pytest.mark.parametrize(
    ("change", "paths"),
    [
        ({"verifier": {"path": "../models/x"}}, ["verifier.path"]),
        ({"draft": "./draft"}, ["draft"]),
        ({"draft": "me/draft@main/../../x"}, ["draft"]),
        ({"draft": f"me/draft@{'0' * 40}"}, []),
        ({"benchmark": {"prompts": "/etc/passwd"}}, ["benchmark.prompts"]),
        ({"datagen": {"prompts": {"files": ["a", "/b"]}}}, ["datagen.prompts.files"]),
        ({"engine": {"args": {"hf_overrides": {"a": 1}, "seed": 1}}}, ["engine.args.hf_overrides"]),
        ({"engine": {"env": {"VLLM_CPU_OMP_THREADS_BIND": "0-3|4-7"}}}, []),
    ],
)
def test_files_of_this_machine_are_a_concern(change: dict[str, Any], paths: list[str]):
    plain = {"verifier": {"package": "pkg"}, "benchmark": {"prompts": "prompts/b.jsonl"}}
    assert [one.path for one in concerns(plain | change)] == paths
