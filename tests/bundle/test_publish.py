"""Publishing: the real client of the Hub against a stand-in of the Hub's API on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from speculators.bundle.publish import Upload, refused, uploads
from speculators.documents import read_json
from speculators.errors import RecipeError
from tests.bundle.hub import Hub, standing_in
from tests.bundle.world import RUN_ID, WEIGHTS, a_run

REPOSITORY = "me/my-draft"
BUNDLE = f"smollm2-135m-eagle3-{RUN_ID}.speculators.tar"
TOKEN = "hf_a-secret-of-the-test"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_run(tmp_path_factory.mktemp("published"))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with standing_in() as hub:
        yield hub


def speculators(folder: Path, hub: Hub, *words: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    """One command, in a process whose Hub is the stand-in."""
    environment = os.environ | {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",  # its storage protocol has no public description to stand in for
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": token,
    }
    command = [sys.executable, "-m", "speculators", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_a_published_run_can_be_verified_from_the_hub(run: Path, hub: Hub, tmp_path: Path):
    done = speculators(tmp_path, hub, "publish", str(run), "--to", REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert f"{REPOSITORY}/commit/" in done.stdout
    files = hub.repositories[REPOSITORY]
    assert sorted(files) == ["README.md", "config.json", "model.safetensors", "recipe.yaml", BUNDLE]
    assert files["model.safetensors"] == WEIGHTS
    assert hub.tokens == {f"Bearer {TOKEN}", ""}  # none goes to the store of large files
    assert TOKEN not in done.stdout + done.stderr
    checked = speculators(tmp_path, hub, "verify", f"hf://{REPOSITORY}/{BUNDLE}")
    assert checked.returncode == 0, checked.stderr
    assert "as it was written, unsigned" in checked.stdout


def test_the_published_checkpoint_names_its_verifier_as_anywhere(run: Path, hub: Hub, tmp_path: Path):
    assert str(run.parents[2]) in (run / "model" / "config.json").read_text()  # as it is served here
    assert speculators(tmp_path, hub, "publish", str(run), "--to", REPOSITORY).returncode == 0
    for name, content in hub.repositories[REPOSITORY].items():
        assert str(run.parents[2]).encode() not in content, name
    assert b'"name_or_path": "pkg==1/m.gguf"' in hub.repositories[REPOSITORY]["config.json"]


def test_the_card_has_the_figures_and_the_command_that_repeats_them(run: Path, tmp_path: Path):
    files = {one.name: one.content for one in uploads(run, REPOSITORY, tmp_path)}
    page = files["README.md"]
    assert isinstance(page, bytes)
    text, report = page.decode(), read_json(run / "report.json")
    assert text.startswith("# a draft\n")
    assert report["verdict"] in text
    for one in report["summary"]["speed"]:
        speedup = one["speedup"]
        spread = f"[{speedup['low']:.2f}, {speedup['high']:.2f}]"
        assert f"| {one['concurrency']} | {speedup['mean']:.2f}× {spread} | " in text
    assert f"speculators run hf://{REPOSITORY}/{BUNDLE}\n" in text


def test_a_private_repository_is_asked_for(run: Path, hub: Hub, tmp_path: Path):
    speculators(tmp_path, hub, "publish", str(run), "--to", REPOSITORY, "--private")
    assert hub.visibility[REPOSITORY] in ("private", True)


def test_a_dry_run_lists_the_files_and_asks_nobody(run: Path, hub: Hub, tmp_path: Path):
    done = speculators(tmp_path, hub, "publish", str(run), "--to", REPOSITORY, "--dry-run", token="")
    assert done.returncode == 0, done.stderr
    for name in ("README.md", "config.json", "model.safetensors", "recipe.yaml", BUNDLE):
        assert name in done.stdout
    assert hub.requests == []


def test_without_a_token_nothing_is_sent(run: Path, hub: Hub, tmp_path: Path):
    done = speculators(tmp_path, hub, "publish", str(run), "--to", REPOSITORY, token="")
    assert done.returncode == 2
    assert "HF_TOKEN" in done.stderr
    assert hub.requests == []


def test_a_refusal_is_told_without_the_token(run: Path, hub: Hub, tmp_path: Path):
    hub.refuses.add(f"Bearer {TOKEN}")
    done = speculators(tmp_path, hub, "publish", str(run), "--to", REPOSITORY)
    assert done.returncode == 4, done.stderr
    assert "right to write" in done.stderr
    assert "Traceback" not in done.stderr
    assert TOKEN not in done.stdout + done.stderr


def test_a_token_in_an_errors_own_words_is_taken_out():
    assert TOKEN not in refused(OSError(f"bad header: Bearer {TOKEN}"), REPOSITORY, TOKEN).message


def test_a_hub_that_cannot_be_reached_is_the_machines_matter(run: Path, tmp_path: Path):
    hub = Hub()
    hub.address = "http://127.0.0.1:9"
    done = speculators(tmp_path, hub, "publish", str(run), "--to", REPOSITORY)
    assert (done.returncode, "Traceback" in done.stderr) == (4, False), done.stderr


@pytest.mark.parametrize("name", ["draft", "a/b/c", "a b/c", "../x/y", ""])
def test_what_is_no_repository_is_refused(run: Path, tmp_path: Path, name: str):
    with pytest.raises(RecipeError, match="not a repository"):
        uploads(run, name, tmp_path)


def test_an_upload_knows_its_size_and_digest(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"abc")
    one, other = Upload("x", b"abc"), Upload("x", tmp_path / "x")
    assert (one.size, one.sha256) == (other.size, other.sha256)
