"""Which code ran: by its digest anywhere, by its commit in a checkout."""

from __future__ import annotations

import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from speculators import __version__
from speculators.documents import value_digest
from speculators.pipeline.tool import commit, source_digest, tool


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package in a checkout of its own, as it was committed."""
    folder = tmp_path / "checkout"
    (folder / "speculators").mkdir(parents=True)
    (folder / "schemas").mkdir()
    (folder / "speculators" / "code.py").write_text("one = 1\n")
    (folder / "schemas" / "s.json").write_text("{}\n")
    (folder / "notes.txt").write_text("mine\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder / "speculators"


def test_a_checkout_is_named_by_its_commit(package: Path):
    assert commit(package) == {"commit": git(package, "rev-parse", "HEAD"), "dirty": False}


@pytest.mark.parametrize(
    ("place", "dirty"),
    [
        ("speculators/code.py", True),
        ("speculators/new.py", True),
        ("schemas/s.json", True),
        ("notes.txt", False),
    ],
)
def test_what_is_installed_of_a_checkout_makes_it_dirty(package: Path, place: str, dirty: bool):
    (package.parent / place).write_text("two = 2\n")
    assert commit(package)["dirty"] is dirty


def test_the_repository_of_a_hook_is_another_one(package: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GIT_DIR", str(package / "no-such-repository"))
    assert commit(package)["commit"]


def test_an_installation_has_no_commit_though_a_repository_may_lie_around_it(package: Path):
    installed = package.parent / ".venv" / "site-packages" / "speculators"
    installed.mkdir(parents=True)
    assert commit(installed) == {}


def test_a_checkout_that_git_does_not_answer_for_has_no_commit(
    package: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", "")
    assert commit(package) == {}


def test_the_record_names_version_and_sources():
    found = tool()
    assert found["version"] == __version__
    assert len(found["sha256"]) == 64


def test_the_sources_digest_is_the_same_in_a_wheel_and_in_a_checkout(tmp_path: Path) -> None:
    package = tmp_path / "speculators"
    (package / "recipe").mkdir(parents=True)
    (package / "recipe" / "a.py").write_text("a = 1")
    (package / "__init__.py").write_text("")
    before = source_digest(package)
    assert before == value_digest(
        {"__init__.py": sha256(b"").hexdigest(), "recipe/a.py": sha256(b"a = 1").hexdigest()}
    )
    for guest in ("schemas/x.json", "recipes/x.lock.yaml", "recipe/__pycache__/a.pyc", ".cache/a.py"):
        (package / guest).parent.mkdir(parents=True, exist_ok=True)
        (package / guest).write_text("made elsewhere")
    assert source_digest(package) == before
    (package / "recipe" / "a.py").write_text("a = 2")
    assert source_digest(package) != before
