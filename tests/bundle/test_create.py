"""A bundle of a finished run: the same bytes every time, and nothing of this machine."""

from __future__ import annotations

import getpass
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest

from speculators.bundle.archive import SUMS_NAME, write_archive
from speculators.bundle.create import bundle
from speculators.bundle.verify import verify
from speculators.cli.app import main
from speculators.documents import read_json, write_json
from speculators.errors import RecipeError
from speculators.recipe.recipe import require_recipe
from tests.bundle.world import WEIGHTS, a_recipe, a_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return a_run(tmp_path / "work")


def test_bundling_twice_gives_the_same_bytes(run: Path, tmp_path: Path):
    one = bundle(run, tmp_path / "one.tar").path.read_bytes()
    (run / "run.json").touch()
    assert one == bundle(run, tmp_path / "two.tar").path.read_bytes()


def test_the_bundle_is_sound_and_any_tar_reads_it(run: Path, tmp_path: Path):
    archive = bundle(run, tmp_path / "one.tar")
    assert verify(archive.path).description["run"] == run.name
    with tarfile.open(archive.path) as tar:
        assert [(one.mtime, one.uid, one.gid, one.mode) for one in tar] == [(0, 0, 0, 0o644)] * len(
            archive.members
        )
        tar.extractall(tmp_path / "out", filter="data")
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "out", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": OK") == len(archive.members) - 1


def test_the_name_says_recipe_and_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    latest = run.parent / "latest"
    latest.symlink_to(run.name)
    assert str(bundle(latest).path) == f"smollm2-135m-eagle3-{run.name}.speculators.tar"


def test_the_output_may_be_a_folder_and_must_have_one(run: Path, tmp_path: Path):
    placed = bundle(run, tmp_path).path
    assert placed == tmp_path / f"smollm2-135m-eagle3-{run.name}.speculators.tar"
    with pytest.raises(RecipeError, match="its folder is not there") as refused:
        bundle(run, tmp_path / "no" / "one.tar")
    assert refused.value.hint


def test_a_name_that_no_other_verb_takes_for_a_bundle_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["bundle", str(run), "--output", str(tmp_path / "out.tar")]) == 2
    assert "help: name it out.tar.speculators.tar" in capsys.readouterr().err
    assert not (tmp_path / "out.tar").exists()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"cut": ', b"\xff\xfe", b"[" * 100_000])
@pytest.mark.parametrize("name", ["report.json", "resolved.yaml"])
def test_a_damaged_file_of_the_run_is_named(run: Path, tmp_path: Path, name: str, content: bytes):
    (run / name).write_bytes(content)
    with pytest.raises(RecipeError) as refused:
        bundle(run, tmp_path / "one.tar")
    assert refused.value.rule == "damaged-run"
    assert refused.value.message.startswith(f"{run / name}: damaged: ")


def test_a_bundle_that_cannot_be_written_leaves_nothing(tmp_path: Path):
    with pytest.raises(RecipeError, match="does not fit into a tar"):
        write_archive(tmp_path / "one.tar", {SUMS_NAME: b"", f"{'a' * 300}.json": b"{}"})
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_this_machine_is_in_the_bundle(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(run).encode() in (run / "report.json").read_bytes()  # else this shows nothing
    content = bundle(run, tmp_path / "one.tar").path.read_bytes()
    for secret in (str(tmp_path), str(Path(__file__).parents[2]), f"/{getpass.getuser()}/"):
        assert secret.encode() not in content
    assert f'"{socket.gethostname()}"'.encode() not in content
    assert b"RUN/bench/" in content
    assert b"STORE/verifier/x" in content


def test_a_file_whose_paths_were_replaced_is_marked(run: Path, tmp_path: Path):
    members = verify(bundle(run, tmp_path / "one.tar").path).description["members"]
    assert {name for name, entry in members.items() if "was" in entry} == {
        "report.json",
        "report.md",
        *(f"bench/round-0{n}/{arm}/client/guidellm-c1.json" for n in (1, 2) for arm in ("plain", "draft")),
    }


def test_weights_are_named_by_digest_or_are_in_it_with_their_canonical_config(run: Path, tmp_path: Path):
    archive = bundle(run, tmp_path / "one.tar")
    assert not [name for name in archive.members if name.startswith("model/")]
    assert "model/model.safetensors" in verify(archive.path).description["weights"]
    full = bundle(run, tmp_path / "two.tar", with_weights=True)
    assert full.read("model/model.safetensors") == WEIGHTS
    assert b'"name_or_path": "pkg==1/m.gguf"' in full.read("model/config.json")
    assert not [line for line in verify(full.path).not_checked if line.startswith("weights")]


def test_changed_weights_are_not_bundled(run: Path, tmp_path: Path):
    (run / "model" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(RecipeError, match=r"model\.safetensors: not as the package stage wrote it"):
        bundle(run, tmp_path / "one.tar", with_weights=True)


def test_prompt_files_lie_where_the_recipe_finds_them(run: Path, tmp_path: Path):
    archive = bundle(run, tmp_path / "one.tar")
    assert b"Say 2." in archive.read("files/prompts/train.jsonl")


def test_changed_prompts_are_refused_and_can_be_given_from_elsewhere(run: Path, tmp_path: Path):
    recipes = tmp_path / "work" / "recipes"
    (recipes / "prompts").rename(tmp_path / "prompts")
    with pytest.raises(RecipeError, match=r"train\.jsonl: is not there any more"):
        bundle(run, tmp_path / "one.tar")
    bundle(run, tmp_path / "one.tar", files_from=tmp_path)
    (tmp_path / "prompts" / "benchmark.jsonl").write_text("{}\n")
    with pytest.raises(
        RecipeError, match=r"benchmark\.jsonl: has changed since the run \(benchmark\.prompts\)"
    ):
        bundle(run, tmp_path / "one.tar", files_from=tmp_path)


def test_a_name_that_climbs_out_of_the_recipes_folder_stays_within_the_bundle(tmp_path: Path):
    a_recipe(tmp_path / "work" / "recipes")
    (tmp_path / "work" / "recipes" / "prompts").rename(tmp_path / "work" / "data")
    names = ["datagen.prompts.files=[../data/train.jsonl]", "benchmark.prompts=../data/benchmark.jsonl"]
    recipe = require_recipe(tmp_path / "work" / "recipes" / "my.yaml", names)
    found = verify(bundle(a_run(tmp_path / "work", recipe), tmp_path / "one.tar").path)
    assert found.description["recipe_folder"] == "up"
    assert found.description["files"]["benchmark.prompts"] == ["files/data/benchmark.jsonl"]


def test_an_absolute_name_keeps_its_last_part(tmp_path: Path):
    folder = tmp_path / "work" / "recipes"
    a_recipe(folder)
    recipe = require_recipe(
        folder / "my.yaml", [f"benchmark.prompts={folder / 'prompts' / 'benchmark.jsonl'}"]
    )
    found = verify(bundle(a_run(tmp_path / "work", recipe), tmp_path / "one.tar").path)
    assert found.description["files"]["benchmark.prompts"] == ["files/benchmark.jsonl"]
    assert b"prompts: benchmark.jsonl" in found.archive.read("resolved.yaml")
    assert [line for line in found.not_checked if line.startswith("resolved.yaml: the recipe's digest")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "failed"}, "the run is 'failed', not finished"),
        ({"status": "running"}, "the run is 'running', not finished"),
    ],
)
def test_an_unfinished_run_is_refused(run: Path, tmp_path: Path, change: dict[str, str], message: str):
    write_json(run / "run.json", read_json(run / "run.json") | change)
    with pytest.raises(RecipeError, match=message) as refused:
        bundle(run, tmp_path / "one.tar")
    assert refused.value.exit_code == 2
    assert not (tmp_path / "one.tar").exists()


def test_a_run_of_one_stage_is_refused(run: Path, tmp_path: Path):
    (run / "report.json").unlink()
    with pytest.raises(RecipeError, match="nothing was measured"):
        bundle(run, tmp_path / "one.tar")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"no run\.json: not a run folder"):
        bundle(tmp_path, tmp_path / "one.tar")


def test_the_provenance_is_of_the_published_kinds(run: Path, tmp_path: Path):
    archive = bundle(run, tmp_path / "one.tar")
    (tmp_path / "a.json").write_bytes(archive.read("attestation.json"))
    (tmp_path / "t.json").write_bytes(archive.read("attestation-tests.json"))
    slsa, tests = read_json(tmp_path / "a.json"), read_json(tmp_path / "t.json")
    assert slsa["_type"] == tests["_type"] == "https://in-toto.io/Statement/v1"
    assert slsa["predicateType"] == "https://slsa.dev/provenance/v1"
    assert slsa["predicate"]["runDetails"]["metadata"]["startedOn"] == "2026-01-02T03:04:05+01:00"
    assert {one["name"] for one in slsa["subject"]} >= {"run.json", "model/model.safetensors"}
    assert tests["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert tests["predicate"]["result"] in ("PASSED", "WARNED")
    assert "benchmark: requests" in tests["predicate"]["passedTests"]
